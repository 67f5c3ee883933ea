# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The fake server against the real DSPy, whichever supported version is installed."""

from __future__ import annotations

import asyncio
import inspect
from importlib.util import find_spec
from typing import Any, Literal

import dspy
import pydantic
import pytest
from packaging.version import Version

from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI, Reply, ToolCall, Usage
from tests.support.faults import Status

KNOWS_RESPONSES = pytest.mark.skipif(
    "responses" not in str(inspect.signature(dspy.LM.__init__).parameters["model_type"].annotation),
    reason="this dspy does not know the Responses API",
)


class _Person(pydantic.BaseModel):
    name: str
    age: int


class _EveryType(dspy.Signature):
    """Fill in the form."""

    question: str = dspy.InputField()
    text: str = dspy.OutputField()
    number: int = dspy.OutputField()
    share: float = dspy.OutputField()
    yes: bool = dspy.OutputField()
    words: list[str] = dspy.OutputField()
    choice: Literal["x", "y"] = dspy.OutputField()
    person: _Person = dspy.OutputField()
    people: list[_Person] = dspy.OutputField()
    counts: dict[str, int] = dspy.OutputField()
    maybe: int | None = dspy.OutputField()


class _WithTools(dspy.Signature):
    """Call a tool."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


def _lm(server: FakeOpenAI, **options: Any) -> dspy.LM:
    return dspy.LM(
        "openai/gpt-4o-mini", api_base=server.base_url, api_key="test", cache=False, **options
    )


_ADAPTERS = [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter]


@pytest.mark.parametrize("adapter", _ADAPTERS)
def test_default_answers_parse_at_the_first_try(server: FakeOpenAI, adapter: Any) -> None:
    with dspy.context(lm=_lm(server), adapter=adapter()):
        result = dspy.Predict(_EveryType)(question="?")
        thought = dspy.ChainOfThought("question -> answer")(question="?")
    assert len(server.requests) == 2
    assert (result.text, result.number, result.share) == ("text value", 1, 0.5)
    assert (result.yes, result.choice, result.counts, result.maybe) == (True, "x", {}, 1)
    assert isinstance(result.words[0], str)
    assert len(result.people) == 1
    assert thought.answer == "answer value"
    assert thought.reasoning == "reasoning value"


async def test_async_calls(server: FakeOpenAI) -> None:
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=_lm(server)):
        results = await asyncio.gather(*(predict.acall(question=f"{n}") for n in range(10)))
    assert {result.answer for result in results} == {"answer value"}
    assert len(server.requests) == 10


def test_usage_reaches_the_history(server: FakeOpenAI) -> None:
    lm = _lm(server)
    server.reply_with(Reply("hi", usage=Usage(10, 5, cached=4, reasoning=3)))
    lm("hello")
    usage = lm.history[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 5)
    assert dict(usage["prompt_tokens_details"])["cached_tokens"] == 4
    assert dict(usage["completion_tokens_details"])["reasoning_tokens"] == 3
    assert server.requests[-1].api_key == "test"


def test_choices(server: FakeOpenAI) -> None:
    server.reply_with("one", "two")
    assert sorted(_lm(server)("hello", n=2, temperature=1.0)) == ["one", "two"]


@pytest.mark.parametrize(
    ("model_type", "path"),
    [
        ("text", "/v1/completions"),
        pytest.param("responses", "/v1/responses", marks=KNOWS_RESPONSES),
    ],
)
def test_other_endpoints(server: FakeOpenAI, model_type: Any, path: str) -> None:
    with dspy.context(lm=_lm(server, model_type=model_type)):
        assert dspy.Predict("question -> answer")(question="?").answer == "answer value"
    assert server.requests[-1].path == path


@pytest.mark.skipif(
    Version(dspy.__version__) < Version("3.4") and find_spec("mcp") is None,
    reason="litellm, which dspy < 3.4 calls through, imports mcp when tools are given",
)
def test_native_tool_calls(server: FakeOpenAI) -> None:
    def get_weather(city: str) -> str:
        return f"sunny in {city}"

    server.reply_with(Reply(None, tool_calls=(ToolCall("get_weather", {"city": "Paris"}),)))
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    with dspy.context(lm=_lm(server), adapter=adapter):
        result = dspy.Predict(_WithTools)(question="?", tools=[dspy.Tool(get_weather)])
    call = result.calls.tool_calls[0]
    assert (call.name, call.args) == ("get_weather", {"city": "Paris"})
    assert server.requests[-1].json["tools"][0]["function"]["name"] == "get_weather"


def test_agent_with_a_scripted_tool_call(server: FakeOpenAI) -> None:
    asked: list[str] = []
    step = {"next_thought": "look", "next_tool_name": "search", "next_tool_args": {"query": "q"}}
    server.reply_with(chat_text(**step))

    def search(query: str) -> str:
        asked.append(query)
        return "found"

    with dspy.context(lm=_lm(server)):
        result = dspy.ReAct("question -> answer", tools=[search])(question="?")
    assert asked == ["q"]
    assert result.trajectory["tool_name_1"] == "finish"
    assert result.answer == "answer value"


@pytest.mark.parametrize("model_type", ["chat", pytest.param("responses", marks=KNOWS_RESPONSES)])
async def test_streaming(server: FakeOpenAI, model_type: Any) -> None:
    text = chat_text(answer="one two three")
    server.reply_with(Reply(text, chunk_delay=0.001))
    program = dspy.streamify(
        dspy.Predict("question -> answer"),
        stream_listeners=[dspy.streaming.StreamListener(signature_field_name="answer")],
    )
    chunks: list[Any] = []
    with dspy.context(lm=_lm(server, model_type=model_type)):
        async for chunk in program(question="?"):
            chunks.append(chunk)
    assert chunks[-1].answer == "one two three"
    assert server.requests[-1].path.endswith("responses" if model_type != "chat" else "completions")


def test_embedder(server: FakeOpenAI) -> None:
    embedder = dspy.Embedder(
        "openai/text-embedding-3-small", api_base=server.base_url, api_key="test", caching=False
    )
    vectors = embedder(["a", "b", "a"])
    assert vectors.shape == (3, 8)
    assert vectors[0].tolist() == vectors[2].tolist()


def test_server_error_is_retried(server: FakeOpenAI) -> None:
    server.fail_with(Status(429, retry_after=0))
    server.reply_with("fine")
    assert _lm(server, num_retries=1)("hello") == ["fine"]
    assert len(server.requests) == 2
