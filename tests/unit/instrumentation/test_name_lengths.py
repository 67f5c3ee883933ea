# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""No name in a program makes the name of a span longer than backends take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import numpy as np
import pytest

from opentelemetry.instrumentation.dspy import semconv
from tests.support.lms import EchoLM
from tests.support.prompt_lm import PromptLM
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

LONGEST = 128
LONG = "x" * 400
FIELDS = ", ".join(f"field_with_a_long_name_{number}" for number in range(40))
OPERATIONS = {value for name, value in vars(semconv.Operations).items() if not name.startswith("_")}


def named(base: type[Any], **members: Any) -> type[Any]:
    """A class with a long name."""
    return type(f"{base.__name__}{LONG}", (base,), {"__module__": __name__, **members})


def function(result: Any) -> Callable[..., Any]:
    """A function with a long name."""

    def call(text: Any = "", *_: Any, **__: Any) -> Any:
        return result

    call.__name__ = call.__qualname__ = f"function_{LONG}"
    return call


class Nested(dspy.Module):
    """Calls a module whose path in the program is long."""

    def __init__(self) -> None:
        super().__init__()
        setattr(self, LONG, dspy.ChainOfThought("question -> answer"))
        self.by_key = {LONG: dspy.Predict("question -> answer")}

    def forward(self, question: str) -> Any:
        getattr(self, LONG)(question=question)
        return self.by_key[LONG](question=question)


def modules() -> None:
    named(Nested)()(question="q")
    dspy.Predict(f"{FIELDS} -> answer")(**dict.fromkeys(FIELDS.split(", "), "q"))
    named(dspy.Predict)("question -> answer")(question="q")
    signature = type(f"Signature{LONG}", (dspy.Signature,), {"__doc__": "Answer."})
    dspy.Predict(signature.append("answer", dspy.OutputField(), str))()


def agents() -> None:
    tools = [dspy.Tool(function("found"), name=f"tool_{LONG}", args={}, desc="Find.")]
    for agent in (named(dspy.ReAct), dspy.ReAct):
        agent(f"{FIELDS} -> answer", tools=tools)
    tools[0]()


def model() -> None:
    lm = named(EchoLM)()
    lm.model = f"model-{LONG}"
    with dspy.context(lm=lm, adapter=named(dspy.ChatAdapter)()):
        dspy.Predict("question -> answer")(question="q")


def searches() -> None:
    dspy.Embedder(function(np.ones((1, 2))))("text")
    named(dspy.Retrieve, forward=lambda self, query: dspy.Prediction(passages=[query]))()("query")


def interpreter() -> None:
    # Without the process that the base class would start.
    without_process = named(dspy.PythonInterpreter, execute=lambda self, code, variables=None: "2")
    without_process(deno_command=["unused"]).execute("1 + 1")


def side_by_side() -> None:
    example = dspy.Example(question="q").with_inputs("question")
    dspy.Parallel(num_threads=1, disable_progress_bar=True)(
        [(dspy.Predict("question -> answer"), example)]
    )


def evaluation() -> None:
    example = dspy.Example(question="q", answer="blue").with_inputs("question")
    evaluate = named(dspy.Evaluate)(
        devset=[example], metric=function(1.0), display_progress=False, num_threads=1
    )
    evaluate(dspy.Predict("question -> answer"))


def optimizer() -> None:
    compiling = named(
        dspy.teleprompt.Teleprompter, compile=lambda self, student, *, trainset, **_: student
    )
    compiling().compile(named(dspy.Predict)("question -> answer"), trainset=[])


def stream() -> None:
    async def read() -> None:
        program = dspy.Predict("question -> answer")
        called = named(object, __call__=lambda self, question: program(question=question))()
        async for _ in dspy.streamify(called)(question="q"):
            pass

    asyncio.run(read())


PROGRAMS = (
    modules,
    agents,
    model,
    searches,
    interpreter,
    side_by_side,
    evaluation,
    optimizer,
    stream,
)


def run_all(traced: Traced) -> list[Any]:
    with dspy.context(lm=PromptLM()):
        for program in PROGRAMS:
            program()
    return traced.spans


def test_names_of_spans_of_every_kind_of_operation_are_bounded(trace_with: TraceWith) -> None:
    spans = run_all(trace_with(adapter_steps="spans"))
    assert {span.attributes[semconv.DSPY_OPERATION] for span in spans} == OPERATIONS
    assert [span.name for span in spans if len(span.name) > LONGEST] == []


def test_names_of_workflows_and_agents_by_which_traces_are_named_are_bounded(
    traced: Traced,
) -> None:
    keys = (semconv.GEN_AI_WORKFLOW_NAME, semconv.GEN_AI_AGENT_NAME)
    names = [
        span.attributes[key] for span in run_all(traced) for key in keys if key in span.attributes
    ]
    assert names
    assert [name for name in names if len(name) > LONGEST] == []


@pytest.mark.parametrize("length", [1, 100, LONGEST - len("execute_tool ")])
def test_a_name_within_the_limit_is_whole(traced: Traced, length: int) -> None:
    dspy.Tool(function("found"), name="t" * length, args={}, desc="Find.")()
    assert traced.names() == ["execute_tool " + "t" * length]


def test_a_longer_name_keeps_its_beginning_and_says_that_it_was_cut(traced: Traced) -> None:
    dspy.Tool(function("found"), name="t" * LONGEST, args={}, desc="Find.")()
    [name] = traced.names()
    assert name == ("execute_tool " + "t" * LONGEST)[: LONGEST - 1] + "…"
    assert traced.attributes(name)[semconv.GEN_AI_TOOL_NAME] == "t" * LONGEST
