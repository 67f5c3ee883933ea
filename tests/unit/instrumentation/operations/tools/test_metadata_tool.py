# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The schema on a tool's span: what the tool takes, and no secret among its defaults."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pydantic
import pytest

from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith

CANARY = "canary-of-a-default"
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


class Place(pydantic.BaseModel):
    city: str


def find(query: str, place: Place, k: int = 3) -> str:
    """Finds it."""
    return query


async def call(tool: dspy.Tool, mode: str, **arguments: Any) -> Any:
    return tool(**arguments) if mode == "sync" else await tool.acall(**arguments)


@MODES
async def test_the_schema(traced: Traced, mode: str) -> None:
    await call(dspy.Tool(find), mode, query="q", place={"city": "Paris"})
    schema = traced.content("execute_tool find", "dspy.tool.schema")
    assert list(schema) == ["type", "properties", "required"]
    assert schema["type"] == "object"
    assert schema["required"] == ["query", "place"]
    assert schema["properties"]["k"] == {"type": "integer", "default": 3}
    assert "city" in json.dumps(schema["properties"]["place"])


@MODES
async def test_a_tool_that_takes_nothing(traced: Traced, mode: str) -> None:
    await call(dspy.Tool(lambda: "done", name="nothing"), mode)
    assert "dspy.tool.schema" not in traced.attributes("execute_tool nothing")


def test_without_content(trace_with: TraceWith) -> None:
    traced = trace_with(capture_content=False)
    dspy.Tool(find)(query="q", place={"city": "Paris"})
    assert "dspy.tool.schema" not in traced.attributes("execute_tool find")


def test_a_secret_among_the_defaults(traced: Traced) -> None:
    def fetch(url: str, api_key: str = CANARY) -> str:
        return "fetched"

    dspy.Tool(fetch)(url="u")
    assert CANARY not in everything_in(traced.spans)
    schema = traced.content("execute_tool fetch", "dspy.tool.schema")
    assert schema["properties"]["api_key"] == {"type": "string"}


def test_the_hook_sees_it_whole(trace_with: TraceWith) -> None:
    shown: list[tuple[str, str]] = []

    def redact(operation: str, field: str, value: Any) -> Any:
        shown.append((operation, field))
        return value

    trace_with(redact=redact)
    dspy.Tool(find)(query="q", place={"city": "Paris"})
    assert ("tool", "schema") in shown
    assert ("tool", "properties") not in shown
