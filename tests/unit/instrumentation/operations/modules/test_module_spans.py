# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which spans the calls of modules make, what they are called and where they stand."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from opentelemetry.trace import SpanKind

from tests.support.lms import DummyLM, answering
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced

pytestmark = [pytest.mark.surface("workflow"), pytest.mark.surface("ChainOfThought")]

QA = "question -> answer"


class Answer(dspy.Module):
    """A module with everything that a program can do, sync and async."""

    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        return self.generate(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.generate.acall(question=question)


class Outer(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Answer()

    def forward(self, question: str) -> Any:
        return self.inner(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.inner.acall(question=question)


NESTED = """\
invoke_workflow Outer {dspy.operation=module}
└─ Answer inner {dspy.operation=module, dspy.module.path=inner}
   └─ Predict inner.generate {dspy.operation=predict, dspy.module.path=inner.generate}
      └─ ChatAdapter {dspy.operation=adapter}
         └─ chat dummy {dspy.operation=lm}"""


def test_a_nested_program(traced: Traced) -> None:
    with dspy.context(lm=answering()):
        Outer()(question="?")
    assert traced.tree("dspy.operation", "dspy.module.path") == NESTED


async def test_a_nested_program_called_asynchronously(traced: Traced) -> None:
    with dspy.context(lm=answering()):
        await Outer().acall(question="?")
    assert traced.tree("dspy.operation", "dspy.module.path") == NESTED


def test_only_lm_calls_are_client_spans(traced: Traced) -> None:
    with dspy.context(lm=answering()):
        Answer()(question="?")
    clients = [span.name for span in traced.spans if span.kind is SpanKind.CLIENT]
    others = {span.kind for span in traced.spans if span.name not in clients}
    assert (clients, others) == (["chat dummy"], {SpanKind.INTERNAL})


@pytest.fixture
def modules_only(trace_with: Any) -> Traced:
    """Spans of modules, tools and LMs, none of adapters."""
    return trace_with(capture_intermediate_steps=False)


def test_a_lone_predict_is_its_own_workflow(modules_only: Traced) -> None:
    with dspy.context(lm=answering()):
        dspy.Predict(QA)(question="?")
    assert modules_only.tree("dspy.operation", "gen_ai.operation.name", "gen_ai.workflow.name") == (
        "invoke_workflow Predict question -> answer {dspy.operation=predict, "
        "gen_ai.operation.name=invoke_workflow, gen_ai.workflow.name=Predict question -> answer}\n"
        "└─ chat dummy {dspy.operation=lm, gen_ai.operation.name=chat}"
    )


def test_chain_of_thought_and_its_inner_predict(modules_only: Traced) -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.think = dspy.ChainOfThought(QA)

        def forward(self, question: str) -> Any:
            return self.think(question=question)

    with dspy.context(lm=DummyLM([{"reasoning": "r", "answer": "a"}])):
        Program()(question="?")
    assert modules_only.tree("dspy.module.signature") == (
        "invoke_workflow Program\n"
        "└─ ChainOfThought think {dspy.module.signature=question -> reasoning, answer}\n"
        "   └─ Predict think {dspy.module.signature=question -> reasoning, answer}\n"
        "      └─ chat dummy"
    )


class BasicQA(dspy.Signature):
    """Answer."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        (BasicQA, "Predict BasicQA"),
        (QA, "Predict question -> answer"),
        (f"question, {', '.join(f'input_{n}' for n in range(30))} -> answer", None),
    ],
)
def test_the_name_of_a_lone_predict_says_its_signature(
    modules_only: Traced, signature: Any, name: str | None
) -> None:
    with dspy.context(lm=answering()):
        dspy.Predict(signature)(question="?")
    root: Any
    (root,) = [span for span in modules_only.spans if span.parent is None]
    shown: str = root.attributes["gen_ai.workflow.name"]
    assert root.name == f"invoke_workflow {shown}"
    if name is not None:
        assert shown == name
    else:
        assert shown.startswith("Predict question, input_0, ")
        assert shown.endswith("…")
        assert len(shown) == len("Predict ") + 64


def test_without_signatures_the_name_is_that_of_the_class(trace_with: Any) -> None:
    traced = trace_with(capture_intermediate_steps=False, capture_signatures=False)
    with dspy.context(lm=answering()):
        dspy.Predict(QA)(question="?")
    assert traced.attributes("invoke_workflow Predict")["gen_ai.workflow.name"] == "Predict"


def test_a_module_of_the_user_has_the_name_of_its_class(modules_only: Traced) -> None:
    class Summarizer(dspy.Predict):
        pass

    with dspy.context(lm=answering()):
        Summarizer(QA)(question="?")
    assert "invoke_workflow Summarizer" in modules_only.names()


def test_a_predict_that_is_called_predict_is_not_named_twice(modules_only: Traced) -> None:
    with dspy.context(lm=DummyLM([{"reasoning": "r", "answer": "a"}])):
        dspy.ChainOfThought(QA)(question="?")
    assert modules_only.tree("dspy.module.path") == (
        "invoke_workflow ChainOfThought question -> reasoning, answer\n"
        "└─ Predict {dspy.module.path=predict}\n"
        "   └─ chat dummy"
    )


def test_only_a_whole_part_of_the_path_is_left_out(modules_only: Traced) -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.repredict = dspy.Predict(QA)

        def forward(self, question: str) -> Any:
            return self.repredict(question=question)

    with dspy.context(lm=answering()):
        Program()(question="?")
    assert "Predict repredict" in modules_only.names()


def lookup(query: str) -> str:
    """Looks it up."""
    return f"found {query}"


REACT_STEPS = [
    {"next_thought": "t", "next_tool_name": "lookup", "next_tool_args": {"query": "q"}},
    {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}},
    {"reasoning": "r", "answer": "a"},
]


class Agency(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.agent = dspy.ReAct(QA, tools=[lookup])

    def forward(self, question: str) -> Any:
        return self.agent(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.agent.acall(question=question)


REACT = """\
├─ Predict {0}react
│  └─ chat dummy
├─ execute_tool lookup
├─ Predict {0}react
│  └─ chat dummy
└─ ChainOfThought {0}extract
   └─ Predict {0}extract
      └─ chat dummy"""


def test_an_agent_as_the_root(modules_only: Traced) -> None:
    with dspy.context(lm=DummyLM(REACT_STEPS)):
        dspy.ReAct(QA, tools=[lookup])(question="?")
    assert modules_only.tree() == "invoke_agent ReAct question -> answer\n" + REACT.format("")
    root = modules_only.attributes("invoke_agent ReAct question -> answer")
    assert root["gen_ai.operation.name"] == "invoke_agent"
    assert root["gen_ai.agent.name"] == "ReAct question -> answer"
    assert "gen_ai.workflow.name" not in root


async def test_an_agent_in_a_program(modules_only: Traced) -> None:
    with dspy.context(lm=DummyLM(REACT_STEPS)):
        await Agency().acall(question="?")
    below = "\n".join("   " + line for line in REACT.format("agent.").splitlines())
    assert modules_only.tree() == (f"invoke_workflow Agency\n└─ invoke_agent ReAct agent\n{below}")
    assert modules_only.attributes("invoke_agent ReAct agent")["gen_ai.agent.name"] == "agent"


def test_a_program_with_one_shared_module(modules_only: Traced) -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = dspy.Predict(QA)
            self.second = self.first

        def forward(self, question: str) -> Any:
            self.first(question=question)
            return self.second(question=question)

    with dspy.context(lm=answering()):
        Program()(question="?")
    # As in named_predictors(): an object has one name, the first.
    assert modules_only.tree() == (
        "invoke_workflow Program\n"
        "├─ Predict first\n│  └─ chat dummy\n"
        "└─ Predict first\n   └─ chat dummy"
    )


def test_recursion_makes_a_span_for_each_call(modules_only: Traced) -> None:
    class Countdown(dspy.Module):
        def forward(self, number: int) -> int:
            return 0 if number == 0 else self(number=number - 1)

    Countdown()(number=2)
    assert modules_only.tree() == ("invoke_workflow Countdown\n└─ Countdown\n   └─ Countdown")


def test_super_calls_are_one_span(modules_only: Traced) -> None:
    class Base(dspy.Module):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

        def forward(self, question: str) -> str:
            return question

    class Derived(Base):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

        def forward(self, question: str) -> str:
            return super().forward(question)

    assert Derived()(question="?") == "?"
    assert modules_only.tree() == "invoke_workflow Derived"


async def test_an_override_without_super_is_a_call_all_the_same(modules_only: Traced) -> None:
    class Direct(dspy.Module):
        def __call__(self, question: str) -> str:
            return question

        async def acall(self, question: str) -> str:
            return question

    assert Direct()("?") == "?"
    assert await Direct().acall("?") == "?"
    assert modules_only.tree() == "invoke_workflow Direct\ninvoke_workflow Direct"


def test_calls_one_after_the_other_are_traces_of_their_own(traced: Traced) -> None:
    with dspy.context(lm=answering()):
        Answer()(question="?")
        first = {span.context.trace_id for span in traced.spans}
        traced.clear()
        Answer()(question="?")
    second = {span.context.trace_id for span in traced.spans}
    assert len(first) == len(second) == 1
    assert first != second


def test_a_span_of_the_users_own_is_part_of_the_tree(modules_only: Traced) -> None:
    class Program(Answer):
        def forward(self, question: str) -> Any:
            with modules_only.tracer.start_as_current_span("mine"):
                return self.generate(question=question)

    with modules_only.tracer.start_as_current_span("request"), dspy.context(lm=answering()):
        Program()(question="?")
    assert_one_tree(modules_only.spans)
    assert modules_only.tree() == (
        "request\n└─ invoke_workflow Program\n   └─ mine\n"
        "      └─ Predict generate\n         └─ chat dummy"
    )


def test_the_current_span_in_forward_is_that_of_the_module(modules_only: Traced) -> None:
    from opentelemetry import trace

    class Program(dspy.Module):
        def forward(self) -> None:
            trace.get_current_span().update_name("renamed")

    Program()()
    assert modules_only.names() == ["renamed"]


def test_deprecated_or_not_every_agent_type_is_an_agent(modules_only: Traced) -> None:
    class Agent(dspy.ReAct):
        def forward(self, question: str) -> str:
            return question

    Agent(QA, tools=[])(question="?")
    assert modules_only.tree() == "invoke_agent Agent"
