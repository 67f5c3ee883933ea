# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tools: called by hand, by an agent, synchronously and not, and failing."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import Any

import dspy
import pydantic
import pytest

from tests.support.lms import DummyLM
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = [pytest.mark.surface("Tool"), pytest.mark.surface("ToolCall")]


def search(query: str, k: int = 3) -> list[str]:
    """Looks things up."""
    return [query] * k


async def search_slowly(query: str) -> str:
    return f"slowly {query}"


def test_what_is_recorded(traced: Traced) -> None:
    assert dspy.Tool(search)(query="q", k=2) == ["q", "q"]
    attributes = traced.attributes("execute_tool search")
    assert attributes == {
        "dspy.operation": "tool",
        "dspy.tool.source": "function",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "search",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.description": "Looks things up.",
        "gen_ai.tool.call.arguments": '{"query":"q","k":2}',
        "gen_ai.tool.call.result": '["q","q"]',
        "dspy.tool.schema": '{"type":"object","properties":{"query":{"type":"string"},'
        '"k":{"type":"integer","default":3}},"required":["query"]}',
    }


async def test_asynchronous(traced: Traced) -> None:
    assert await dspy.Tool(search_slowly).acall(query="q") == "slowly q"
    assert traced.tree() == "execute_tool search_slowly"
    assert traced.content("execute_tool search_slowly", "gen_ai.tool.call.result") == "slowly q"


async def test_an_asynchronous_one_called_synchronously(traced: Traced) -> None:
    tool = dspy.Tool(search_slowly)
    with dspy.context(allow_tool_async_sync_conversion=False), pytest.raises(ValueError, match="a"):
        tool(query="q")
    assert traced.tree() == "execute_tool search_slowly ERROR(ValueError)"


async def test_a_synchronous_one_called_asynchronously(traced: Traced) -> None:
    assert await dspy.Tool(search).acall(query="q", k=1) == ["q"]
    assert traced.tree() == "execute_tool search"


async def test_failing(traced: Traced) -> None:
    def explode(reason: str) -> None:
        raise LookupError(reason)

    tool = dspy.Tool(explode)
    with pytest.raises(LookupError, match="why"):
        tool(reason="why")
    with pytest.raises(LookupError, match="why"):
        await tool.acall(reason="why")
    assert traced.tree() == "\n".join(["execute_tool explode ERROR(LookupError)"] * 2)


def test_arguments_that_do_not_fit(traced: Traced) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        dspy.Tool(search)(nonsense=1)
    assert traced.tree() == "execute_tool search ERROR(ValueError)"


class Shelf:
    """Finds by being called."""

    def __call__(self, query: str) -> str:
        return query


class Library:
    def find(self, query: str) -> str:
        """Finds it."""
        return query


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Shelf(), "Shelf"),
        (Library().find, "find"),
        (lambda query: query, "<lambda>"),
        (functools.partial(search, k=1), "partial"),
    ],
)
def test_every_kind_of_callable(traced: Traced, function: Any, name: str) -> None:
    try:
        tool = dspy.Tool(function)
    except (AttributeError, TypeError):
        tool = dspy.Tool(function, name=name)
    assert tool(query="q") in ("q", ["q"])
    assert traced.names() == [f"execute_tool {tool.name}"]


def of_mcp(fails: bool = False) -> dspy.Tool:
    """A tool as DSPy makes it of an MCP server's."""
    types = pytest.importorskip("mcp.types")

    class Session:
        async def call_tool(self, name: str, arguments: dict[str, Any], **more: Any) -> Any:
            content = [types.TextContent(type="text", text=f"rain in {arguments['city']}")]
            return SimpleNamespace(content=content, isError=fails, is_error=fails)

    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    described = {"name": "weather", "description": "The weather.", "title": None}
    tool = SimpleNamespace(**described, inputSchema=schema, input_schema=schema)
    return dspy.Tool.from_mcp_tool(Session(), tool)


def of_langchain(fails: bool = False) -> dspy.Tool:
    """A tool as DSPy makes it of LangChain's."""

    class City(pydantic.BaseModel):
        city: str

    class Weather:
        name, description, args_schema = "weather", "The weather.", City

        async def ainvoke(self, arguments: dict[str, Any]) -> str:
            if fails:
                raise LookupError("no weather")
            return f"rain in {arguments['city']}"

    return dspy.Tool.from_langchain(Weather())


@pytest.mark.parametrize(("make", "source"), [(of_mcp, "mcp"), (of_langchain, "langchain")])
async def test_a_tool_of_somewhere_else(traced: Traced, make: Any, source: str) -> None:
    assert await make().acall(city="Oslo") == "rain in Oslo"
    attributes = traced.attributes("execute_tool weather")
    schema = json.loads(attributes.pop("dspy.tool.schema"))
    assert schema["properties"]["city"]["type"] == "string"
    assert attributes == {
        "dspy.operation": "tool",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "weather",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.description": "The weather.",
        "gen_ai.tool.call.arguments": '{"city":"Oslo"}',
        "gen_ai.tool.call.result": '"rain in Oslo"',
        "dspy.tool.source": source,
    }


@pytest.mark.parametrize("make", [of_mcp, of_langchain])
async def test_a_tool_of_somewhere_else_that_fails(traced: Traced, make: Any) -> None:
    with pytest.raises(RuntimeError, match="Failed to call"):
        await make(fails=True).acall(city="Oslo")
    assert traced.attributes("execute_tool weather")["error.type"] == "RuntimeError"
    assert not traced.span("execute_tool weather").status.is_ok


@pytest.mark.parametrize(("make", "source"), [(of_mcp, "mcp"), (of_langchain, "langchain")])
def test_a_tool_of_somewhere_else_called_synchronously(
    traced: Traced, make: Any, source: str
) -> None:
    with dspy.context(allow_tool_async_sync_conversion=True):
        assert make()(city="Rome") == "rain in Rome"
    attributes = traced.attributes("execute_tool weather")
    assert attributes["dspy.tool.source"] == source
    assert attributes["gen_ai.tool.call.result"] == '"rain in Rome"'


def steps(*calls: tuple[str, dict[str, Any]]) -> DummyLM:
    """The answers of an agent that makes these calls."""
    chosen = [
        {"next_thought": "t", "next_tool_name": name, "next_tool_args": args}
        for name, args in calls
    ]
    return DummyLM([*chosen, {"reasoning": "r", "answer": "a"}])


AGENT = """\
invoke_agent ReAct question -> answer
├─ Predict react
│  └─ chat dummy
├─ execute_tool search ERROR(ValueError)
├─ Predict react
│  └─ chat dummy
└─ ChainOfThought extract
   └─ Predict extract
      └─ chat dummy"""


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_agent_goes_on_after_a_failed_tool(trace_with: TraceWith, mode: str) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    agent = dspy.ReAct("question -> answer", tools=[search])
    with dspy.context(lm=steps(("search", {"wrong": 1}), ("finish", {}))):
        result = agent(question="?") if mode == "sync" else await agent.acall(question="?")
    assert result.answer == "a"
    assert "Execution error in search" in result.trajectory["observation_0"]
    assert traced.tree() == AGENT


def test_a_module_as_a_tool(trace_with: TraceWith) -> None:
    class Inner(dspy.Module):
        def forward(self, query: str) -> str:
            return f"inner {query}"

    traced = trace_with(capture_intermediate_steps=False)
    tool = dspy.Tool(Inner(), name="inner", args={"query": {"type": "string"}})
    assert tool(query="q") == "inner q"
    assert traced.tree() == "execute_tool inner\n└─ invoke_workflow Inner"


def test_texts_that_no_exporter_can_encode(traced: Traced) -> None:
    dspy.Tool(search, name="broken \ud83d", desc="half an emoji \ud83d")(query="q")
    assert len(traced.spans) == 1  # the rest is checked against the registry, as for every test


def test_a_description_is_bounded(trace_with: TraceWith) -> None:
    traced = trace_with(max_content_length=1_000)
    dspy.Tool(search, desc="long " * 100_000)(query="q")
    attributes = traced.attributes("execute_tool search")
    assert len(attributes["gen_ai.tool.description"]) <= 1_000
    assert "gen_ai.tool.description" in attributes["dspy.truncated"]


@pytest.mark.skipif(
    not hasattr(dspy.ToolCalls.ToolCall, "execute"), reason="older dspy: no ToolCall.execute"
)
def test_a_tool_call_that_is_executed(traced: Traced) -> None:
    """DSPy looks for the function in the caller's frame, so no frame is ours."""
    call = dspy.ToolCalls.ToolCall(name="find", args={"query": "q"})
    find = dspy.Tool(search, name="find")
    expected = ["q", "q", "q"]
    assert call.execute(functions={"find": find}) == expected
    assert call.execute() == expected  # the Tool above, by its name
    assert traced.tree() == "execute_tool find\nexecute_tool find"
    traced.clear()
    assert call.execute(functions=[find]) == expected
    assert traced.spans == []
