# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest

from tests.support.dspy_prompts import answer_dspy_prompt, asked_of, xml_text
from tests.support.json_samples import sample
from tests.support.openai_messages import Request, ToolCall


def _request(prompt: str, **more: Any) -> Request:
    body = {"messages": [{"role": "user", "content": prompt}], **more}
    return Request("/v1/chat/completions", {}, body, 0.0)


def test_a_prompt_that_is_not_dspys() -> None:
    assert asked_of(_request("What is the capital of France?")) is None
    assert answer_dspy_prompt(_request("hello")).content == "some text"


def test_response_schema_decides() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert answer_dspy_prompt(_request("hello", response_format=wanted)).content == '{"age": 1}'


def test_forced_tool_is_called() -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}}
    function = {"name": "weather", "parameters": parameters}
    reply = answer_dspy_prompt(
        _request(
            "hello",
            tools=[{"type": "function", "function": function}],
            tool_choice={"type": "function", "function": {"name": "weather"}},
        )
    )
    assert reply.tool_calls == (ToolCall("weather", {"city": "city value"}),)


def test_offered_tool_is_not_called() -> None:
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    assert answer_dspy_prompt(_request("hello", tools=tools)).tool_calls == ()


def test_xml_is_escaped() -> None:
    assert xml_text(a="1 < 2 & 3") == "<a>\n1 &lt; 2 &amp; 3\n</a>"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "x value"),
        ({"enum": ["b", "a"]}, "b"),
        ({"const": 7}, 7),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, None),
        ({"type": "array", "items": {"type": "boolean"}}, [True]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {}),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "number"}}}, 0.5),
        ({}, "x value"),
    ],
)
def test_samples(schema: dict[str, Any], value: Any) -> None:
    assert sample(schema, "x") == value
