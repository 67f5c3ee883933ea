# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Agents: their steps, why they stop, and that saying "done" is not a tool."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM

from tests.support.agents import FINAL, MODES, QA, facts, run, search, steps
from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI, Reply, ToolCall
from tests.support.lms import DSPY, EchoLM, Version, answering, served
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = [
    pytest.mark.surface("ReAct"),
    pytest.mark.surface("RLM"),
    pytest.mark.surface("finish of an agent"),
]

# The type is litellm's up to dspy 3.1.
OWN_ERRORS = Version("3.2") <= DSPY
SHOWN = ("dspy.agent.step.index", "dspy.agent.step.count", "dspy.agent.termination")


def explode(query: str) -> str:
    raise LookupError(f"no {query}")


def chosen(tool: str, **arguments: Any) -> dict[str, Any]:
    return {
        "next_thought": "hm",
        "next_tool_name": tool,
        "next_tool_args": json.dumps(arguments),
    }


TWO_STEPS = [chosen("search", query="q"), chosen("finish"), FINAL]


# --- ReAct ------------------------------------------------------------------------------------

TREE = """\
invoke_agent ReAct question -> answer {dspy.agent.step.count=2, dspy.agent.termination=finish}
├─ Predict react {dspy.agent.step.index=0}
│  └─ chat dummy
├─ execute_tool search {dspy.agent.step.index=0}
├─ Predict react {dspy.agent.step.index=1}
│  └─ chat dummy
└─ ChainOfThought extract
   └─ Predict extract
      └─ chat dummy"""


@MODES
async def test_the_steps_of_an_agent(trace_with: TraceWith, mode: str) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    agent = dspy.ReAct(QA, tools=[search])
    result = await run(agent, mode, DummyLM(TWO_STEPS), question="?")
    assert result.answer == "blue"
    assert traced.tree(*SHOWN) == TREE
    assert facts(traced, "invoke_agent ReAct question -> answer") == {
        "step.count": 2,
        "max_steps": agent.max_iters,
        "termination": "finish",
    }


@MODES
async def test_without_content_the_same_is_told(trace_with: TraceWith, mode: str) -> None:
    traced = trace_with(capture_intermediate_steps=False, capture_content=False)
    agent = dspy.ReAct(QA, tools=[search])
    await run(agent, mode, DummyLM(TWO_STEPS), question="?")
    assert traced.tree(*SHOWN) == TREE


@MODES
async def test_no_steps_left(traced: Traced, mode: str) -> None:
    agent = dspy.ReAct(QA, tools=[search], max_iters=5)
    answers = [chosen("search", query="q")] * 2 + [FINAL]
    await run(agent, mode, DummyLM(answers), question="?", max_iters=2)
    assert facts(traced, "invoke_agent ReAct question -> answer") == {
        "step.count": 2,
        "max_steps": 2,
        "termination": "max_iters",
    }
    assert steps(traced, "execute_tool search") == [0, 1]


@MODES
async def test_a_tool_that_fails_is_a_step_like_any_other(traced: Traced, mode: str) -> None:
    agent = dspy.ReAct(QA, tools=[explode])
    answers = [chosen("explode", query="q"), chosen("finish"), FINAL]
    await run(agent, mode, DummyLM(answers), question="?")
    assert facts(traced, "invoke_agent ReAct question -> answer")["termination"] == "finish"
    assert traced.attributes("execute_tool explode")["error.type"] == "LookupError"
    assert steps(traced, "execute_tool explode") == [0]


class Raising(EchoLM):
    """Raises for the agent's steps and answers for the final extraction."""

    def __init__(self, error: Callable[[], BaseException], answers: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.error = error
        self.answers = list(answers)

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        if "next_tool_name" not in messages[0]["content"]:
            self.reply = chat_text(**FINAL)
        elif self.answers:
            self.reply = self.answers.pop(0)
        else:
            raise self.error()
        return super().forward(prompt, messages)

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return Raising.forward(self, prompt, messages)


def context_window_exceeded() -> BaseException:
    if OWN_ERRORS:
        from dspy.utils.exceptions import ContextWindowExceededError

        return ContextWindowExceededError(message="too long")
    import litellm

    return litellm.ContextWindowExceededError("too long", "echo", "none")  # type: ignore[reportPrivateImportUsage]


STEP = chat_text(**chosen("search", query="q"))


@MODES
async def test_a_past_that_is_too_long(traced: Traced, mode: str) -> None:
    agent = dspy.ReAct(QA, tools=[search])
    lm = Raising(context_window_exceeded, (STEP, STEP))
    result = await run(agent, mode, lm, question="?")
    assert result.answer == "blue"
    # The third step is tried again with a shorter past, which is no further step.
    assert facts(traced, "invoke_agent ReAct question -> answer")["termination"] == "context_window"
    assert facts(traced, "invoke_agent ReAct question -> answer")["step.count"] == 3
    assert set(steps(traced, "Predict react")) == {0, 1, 2}
    assert len(steps(traced, "Predict react")) > 3


@MODES
async def test_a_step_that_fails(traced: Traced, mode: str) -> None:
    agent = dspy.ReAct(QA, tools=[search])
    lm = Raising(lambda: ValueError("no"), (STEP,))
    await run(agent, mode, lm, question="?")
    assert facts(traced, "invoke_agent ReAct question -> answer")["termination"] == "error"
    assert facts(traced, "invoke_agent ReAct question -> answer")["step.count"] == 2


@MODES
async def test_an_agent_that_fails(traced: Traced, mode: str) -> None:
    agent = dspy.ReAct(QA, tools=[search])
    with pytest.raises(KeyError):
        await run(agent, mode, Raising(lambda: KeyError("k"), (STEP,)), question="?")
    assert facts(traced, "invoke_agent ReAct question -> answer") == {
        "step.count": 2,
        "max_steps": agent.max_iters,
        "termination": "error",
    }


@MODES
async def test_an_agent_in_an_agents_tool(traced: Traced, mode: str) -> None:
    inner = dspy.ReAct("query -> answer", tools=[search])

    async def ask_later(query: str) -> str:
        return str((await inner.acall(query=query)).answer)

    def ask(query: str) -> str:
        return str(inner(query=query).answer)

    tool = dspy.Tool(ask if mode == "sync" else ask_later, name="ask")
    outer = dspy.ReAct(QA, tools=[tool])
    answers = [chosen("ask", query="q"), *TWO_STEPS, chosen("finish"), FINAL]
    await run(outer, mode, DummyLM(answers), question="?")
    agents = [span for span in traced.spans if span.name.startswith("invoke_agent ReAct")]
    counts = [(span.attributes or {})["dspy.agent.step.count"] for span in agents]
    assert counts == [2, 2]
    assert steps(traced, "execute_tool ask") == [0]
    assert steps(traced, "execute_tool search") == [0]
    assert_one_tree(traced.spans)


def finish(query: str) -> str:
    return f"finished {query}"


def test_a_users_own_tool_called_finish(traced: Traced) -> None:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.agent = dspy.ReAct(QA, tools=[ask])

        def forward(self, question: str) -> Any:
            dspy.Tool(finish)(query="before")
            return self.agent(question=question)

    def ask(query: str) -> str:
        return str(dspy.Tool(finish)(query=query))

    answers = [chosen("ask", query="q"), chosen("finish"), FINAL]
    with dspy.context(lm=DummyLM(answers)):
        Program()(question="?")
    assert len([name for name in traced.names() if name == "execute_tool finish"]) == 2


def test_the_agents_own_tool_called_by_other_code(traced: Traced) -> None:
    agent = dspy.ReAct(QA, tools=[search])
    assert agent.tools["finish"]() == "Completed."
    assert traced.names() == ["execute_tool finish"]


def test_a_subclass_with_a_forward_of_its_own(traced: Traced) -> None:
    class Shy(dspy.ReAct):
        def forward(self, **inputs: Any) -> Any:
            return dspy.Prediction(answer="no")

    with dspy.context(lm=answering()):
        Shy(QA, tools=[search])(question="?")
    assert facts(traced, "invoke_agent Shy")["step.count"] == 0


# --- ReActV2 ----------------------------------------------------------------------------------

needs_v2 = pytest.mark.skipif(not hasattr(dspy, "ReActV2"), reason="no ReActV2 in this dspy")
V2_MODES = pytest.mark.parametrize(
    "mode",
    ["sync", pytest.param("async", marks=pytest.mark.skipif(Version("3.4") > DSPY, reason="3.4"))],
)


def calling(*calls: ToolCall) -> Reply:
    return Reply(None, tool_calls=calls)


def submit(**fields: Any) -> ToolCall:
    return ToolCall("submit", fields, "call-end")


@needs_v2
@V2_MODES
async def test_calls_of_tools_have_the_models_ids(
    traced: Traced, server: FakeOpenAI, mode: str
) -> None:
    server.reply_with(
        calling(
            ToolCall("search", {"query": "a"}, "id-a"), ToolCall("explode", {"query": "b"}, "id-b")
        ),
        calling(ToolCall("search", {"query": "c"}, "id-c")),
        calling(submit(answer="blue")),
    )
    agent = dspy.ReActV2(QA, tools=[search, explode])
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    with dspy.context(adapter=adapter):
        result = await run(agent, mode, served(server), question="?")
    assert result.answer == "blue"
    tools = [span for span in traced.spans if span.name.startswith("execute_tool")]
    told = [
        ((span.attributes or {})["gen_ai.tool.call.id"], (span.attributes or {})[SHOWN[0]])
        for span in tools
    ]
    assert told == [("id-a", 0), ("id-b", 0), ("id-c", 1)]
    assert facts(traced, "invoke_agent ReActV2") == {
        "step.count": 3,
        "max_steps": agent.max_iters,
        "termination": "finish",
    }
    assert_one_tree(traced.spans)


@needs_v2
@V2_MODES
async def test_calls_that_come_without_an_id(traced: Traced, mode: str) -> None:
    answers = [
        {
            "next_thought": "hm",
            "tool_calls": json.dumps({"tool_calls": [{"name": "search", "args": {"query": "a"}}]}),
        },
        {
            "next_thought": "hm",
            "tool_calls": json.dumps({"tool_calls": [{"name": "submit", "args": {"answer": "b"}}]}),
        },
    ]
    await run(dspy.ReActV2(QA, tools=[search]), mode, DummyLM(answers), question="?")
    assert traced.attributes("execute_tool search")["gen_ai.tool.call.id"] == "call_0_0"
    assert facts(traced, "invoke_agent ReActV2")["termination"] == "finish"


@needs_v2
@V2_MODES
async def test_a_forced_end(traced: Traced, server: FakeOpenAI, mode: str) -> None:
    server.reply_with(
        calling(ToolCall("search", {"query": "a"}, "id-a")), calling(submit(answer="blue"))
    )
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    agent = dspy.ReActV2(QA, tools=[search], max_iters=1)
    with dspy.context(adapter=adapter):
        await run(agent, mode, served(server), question="?")
    assert facts(traced, "invoke_agent ReActV2") == {
        "step.count": 1,
        "max_steps": 1,
        "termination": "max_iters",
    }
    assert steps(traced, "Predict react") == [0, None]


@needs_v2
@V2_MODES
async def test_a_model_that_calls_nothing(traced: Traced, server: FakeOpenAI, mode: str) -> None:
    server.reply_with(
        Reply(chat_text(next_thought="well", tool_calls='{"tool_calls": []}')),
        calling(submit(answer="blue")),
    )
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    agent = dspy.ReActV2(QA, tools=[search])
    with dspy.context(adapter=adapter):
        await run(agent, mode, served(server), question="?")
    assert facts(traced, "invoke_agent ReActV2")["termination"] == "no_tool_call"
