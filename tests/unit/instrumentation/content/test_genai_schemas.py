# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Content has the shapes of the GenAI conventions, for each kind of part, tool and document."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy._operations.lm.messages import (
    finish_reason,
    input_messages,
    output_messages,
    responses_finish_reason,
)
from opentelemetry.instrumentation.dspy._operations.lm.parts import part_of
from opentelemetry.instrumentation.dspy._operations.retrieval import documents_of
from opentelemetry.instrumentation.dspy._operations.services.tool_definitions import (
    tool_definitions,
)
from tests import ROOT
from tests.support.genai_schemas import shape_faults

PAYLOAD = base64.b64encode(bytes(range(200))).decode()
PNG = f"data:image/png;base64,{PAYLOAD}"
PDF = f"data:application/pdf;base64,{PAYLOAD}"


def blob(modality: str, mime_type: str | None = None, **more: Any) -> dict[str, Any]:
    kind = {} if mime_type is None else {"mime_type": mime_type}
    return {"type": "blob", "modality": modality, **kind, **more}


def source(**fields: Any) -> dict[str, Any]:
    return {"source": fields}


# Parts of OpenAI's Chat Completions and Responses API, of Anthropic and of DSPy's typed interface.
# The content of a blob is compared apart.
PARTS: list[tuple[Any, dict[str, Any]]] = [
    ("x", {"type": "text", "content": "x"}),
    ({"type": "text", "text": "x"}, {"type": "text", "content": "x"}),
    ({"type": "text", "text": None}, {"type": "text", "content": ""}),
    ({"text": "x"}, {"type": "text", "content": "x"}),
    ({"type": "input_text", "text": "x"}, {"type": "text", "content": "x"}),
    ({"type": "made up", "x": 1}, {"type": "text", "content": '{"type":"made up","x":1}'}),
    ({"x": 1}, {"type": "text", "content": '{"x":1}'}),
    ({"type": "thinking", "thinking": "t"}, {"type": "reasoning", "content": "t"}),
    (SimpleNamespace(type="thinking", text="t"), {"type": "reasoning", "content": "t"}),
    ({"type": "redacted_thinking", "data": "x"}, {"type": "reasoning", "content": ""}),
    (
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]},
        {"type": "reasoning", "content": "t"},
    ),
    ({"type": "refusal", "refusal": "no"}, {"type": "refusal", "content": "no"}),
    (SimpleNamespace(type="refusal", text="no"), {"type": "refusal", "content": "no"}),
    (
        SimpleNamespace(type="citation", text="t", title=None, url="http://x"),
        {"type": "citation", "text": "t", "url": "http://x"},
    ),
    (SimpleNamespace(type="data", value={"a": 1}), {"type": "text", "content": '{"a":1}'}),
    (
        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
        {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": 1}},
    ),
    (
        SimpleNamespace(type="tool_call", id="c", name="f", input={"a": 1}),
        {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": 1}},
    ),
    (
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a": 1}'},
        {"type": "tool_call", "id": "c", "name": "f", "arguments": {"a": 1}},
    ),
    (
        {"type": "tool_result", "tool_use_id": "c", "content": "sunny"},
        {"type": "tool_call_response", "id": "c", "response": "sunny"},
    ),
    (
        SimpleNamespace(
            type="tool_result", id="c", content=(SimpleNamespace(type="text", text="sunny"),)
        ),
        {"type": "tool_call_response", "id": "c", "response": "sunny"},
    ),
    (
        {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
        {
            "type": "server_tool_call",
            "id": "s",
            "name": "web_search",
            "server_tool_call": {"type": "web_search", "input": {"query": "x"}},
        },
    ),
    (
        {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"url": "http://x"}]},
        {
            "type": "server_tool_call_response",
            "id": "s",
            "server_tool_call_response": {
                "type": "web_search_tool_result",
                "content": [{"url": "http://x"}],
            },
        },
    ),
    (
        {"type": "image_url", "image_url": {"url": "http://x/a.png"}},
        {"type": "uri", "modality": "image", "uri": "http://x/a.png"},
    ),
    ({"type": "image_url", "image_url": {"url": PNG}}, blob("image", "image/png")),
    ({"type": "image_url", "image_url": PNG}, blob("image", "image/png")),
    ({"type": "input_image", "image_url": PNG}, blob("image", "image/png")),
    (
        {"type": "input_image", "file_id": "f-1"},
        {"type": "file", "modality": "image", "file_id": "f-1"},
    ),
    (
        {"type": "image", **source(type="base64", media_type="image/png", data=PAYLOAD)},
        blob("image", "image/png"),
    ),
    (
        {"type": "image", **source(type="url", url="http://x")},
        {"type": "uri", "modality": "image", "uri": "http://x"},
    ),
    (
        SimpleNamespace(type="image", media_type="image/png", data=PAYLOAD, url=None),
        blob("image", "image/png"),
    ),
    (
        SimpleNamespace(type="image", media_type="image/png", data=None, url="http://x"),
        {"type": "uri", "modality": "image", "mime_type": "image/png", "uri": "http://x"},
    ),
    (
        SimpleNamespace(type="audio", media_type="audio/wav", data=None, file_id="f-1"),
        {"type": "file", "modality": "audio", "mime_type": "audio/wav", "file_id": "f-1"},
    ),
    (
        {"type": "input_audio", "input_audio": {"data": PAYLOAD, "format": "mp3"}},
        blob("audio", "audio/mp3"),
    ),
    (
        {"type": "video_url", "video_url": {"url": "http://x"}},
        {"type": "uri", "modality": "video", "uri": "http://x"},
    ),
    (
        {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
        blob("document", "application/pdf", filename="a.pdf"),
    ),
    (
        {"type": "file", "file": {"file_id": "f-1"}},
        {"type": "file", "modality": "document", "file_id": "f-1"},
    ),
    (
        {"type": "input_file", "file_url": "http://x/a.pdf"},
        {"type": "uri", "modality": "document", "uri": "http://x/a.pdf"},
    ),
    (
        {
            "type": "document",
            **source(type="text", media_type="text/plain", data="t"),
            "title": "T",
        },
        {"type": "text", "content": "t", "title": "T"},
    ),
    (
        {"type": "document", **source(type="base64", media_type="application/pdf", data=PAYLOAD)},
        blob("document", "application/pdf"),
    ),
    (
        SimpleNamespace(type="binary", media_type="video/mp4", data=PAYLOAD, filename="a.mp4"),
        blob("video", "video/mp4", filename="a.mp4"),
    ),
]


@pytest.mark.parametrize(("given", "expected"), PARTS)
def test_each_kind_of_part(given: Any, expected: dict[str, Any]) -> None:
    part = part_of(given)
    if expected["type"] == "blob":
        content = part.pop("content")
        assert content.startswith(f"[{len(PAYLOAD)} characters, sha256 ")
        assert part == expected
        part["content"] = content
    else:
        assert part == expected
    messages = [{"role": "user", "parts": [part]}]
    assert_valid({"gen_ai.input.messages": messages, "gen_ai.system_instructions": [part]})
    assert PAYLOAD not in json.dumps(part)


@pytest.mark.parametrize("uri", ["data:image/gif;base64,QQ==", "data:,hello", "data:odd, QQ"])
def test_a_short_payload_is_not_recorded(uri: str) -> None:
    part = part_of({"type": "image_url", "image_url": {"url": uri}})
    payload = uri.partition(",")[2]
    assert part["type"] == "blob"
    assert payload not in json.dumps(part)
    assert part["content"].startswith(f"[{len(payload)} characters")


MESSAGES: list[Any] = [
    {"role": "user", "content": "x"},
    {"role": "user", "content": None},
    {"role": "user", "content": {"a": 1}},
    {"role": "user", "content": 3},
    {"role": None, "content": "x"},
    {"content": "x"},
    "x",
    {"role": "assistant", "tool_calls": [{"function": {"name": None, "arguments": None}}]},
    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "assistant", "tool_calls": [{"id": 7, "type": "custom", "custom": {"name": "f"}}]},
    {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "x"}]},
    {"role": "tool", "content": {"a": 1}},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "x"},
    {"type": "reasoning", "summary": []},
]


@pytest.mark.parametrize("message", MESSAGES)
def test_each_kind_of_message(message: Any) -> None:
    assert_valid({"gen_ai.input.messages": input_messages((), {"messages": [message]})})


@pytest.mark.parametrize("prompt", [None, "x", 3, {"a": 1}, ["x", {"type": "text", "text": "y"}]])
def test_each_kind_of_prompt(prompt: Any) -> None:
    assert_valid({"gen_ai.input.messages": input_messages((prompt,), {})})


def test_reasoning_of_an_earlier_answer_is_recorded() -> None:
    message = {"role": "assistant", "reasoning_content": "r", "content": "x"}
    assert input_messages((), {"messages": [message]})[0]["parts"] == [
        {"type": "reasoning", "content": "r"},
        {"type": "text", "content": "x"},
    ]


@pytest.mark.parametrize("result", [["x"], [None], [], "x", [{"text": "x"}], [{"text": {"a": 1}}]])
def test_an_answer_without_a_reported_reason_is_complete(result: Any) -> None:
    messages = output_messages(result, ())
    assert_valid({"gen_ai.output.messages": messages})
    assert {message["finish_reason"] for message in messages} <= {"stop"}


def test_an_answer_that_calls_tools_without_a_reported_reason() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    (message,) = output_messages([{"text": None, "tool_calls": [call]}], ())
    assert message["finish_reason"] == "tool_call"


@pytest.mark.parametrize(
    ("reported", "recorded"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("end_turn", "stop"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("tool_calls", "tool_call"),
        ("function_call", "tool_call"),
        ("tool_use", "tool_call"),
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
        ("pause_turn", "pause_turn"),
    ],
)
def test_finish_reasons_are_those_of_the_conventions(reported: str, recorded: str) -> None:
    assert finish_reason(reported) == recorded


CALLING = [{"type": "reasoning"}, {"type": "function_call"}]


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ({"status": "completed", "output": [{"type": "message"}]}, "stop"),
        ({"status": "completed", "output": CALLING}, "tool_call"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            "content_filter",
        ),
        ({"status": "incomplete", "incomplete_details": None}, "length"),
        ({"status": "failed"}, "error"),
        ({"status": None}, None),
        ({}, None),
    ],
)
def test_the_status_of_a_response_is_its_finish_reason(response: Any, reason: str | None) -> None:
    assert responses_finish_reason(response) == reason
    assert responses_finish_reason(SimpleNamespace(**response)) == reason


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: list[tuple[Any, dict[str, Any]]] = [
    (
        {"type": "function", "function": {"name": "f", "parameters": WEATHER}},
        {"type": "function", "name": "f", "parameters": WEATHER},
    ),
    ({"type": "function", "name": "f"}, {"type": "function", "name": "f"}),
    (
        {"name": "f", "input_schema": WEATHER},
        {"type": "function", "name": "f", "parameters": WEATHER},
    ),
    ({"type": "web_search_preview"}, {"type": "web_search_preview", "name": "web_search_preview"}),
    (
        {"type": "mcp", "server_label": "docs", "server_url": "http://x"},
        {"type": "mcp", "name": "docs", "server_label": "docs", "server_url": "http://x"},
    ),
    (
        SimpleNamespace(type="builtin", name="web_search", config=None),
        {"type": "builtin", "name": "web_search"},
    ),
    ("code_execution", {"type": "code_execution", "name": "code_execution"}),
    ({"function": {}}, {"type": "function", "name": "function"}),
]


@pytest.mark.parametrize(("tool", "expected"), TOOLS)
def test_each_kind_of_tool(tool: Any, expected: dict[str, Any]) -> None:
    assert tool_definitions([tool]) == [expected]
    assert_valid({"gen_ai.tool.definitions": [expected]})


def test_a_tool_of_dspy() -> None:
    def look_up(city: str, days: int = 3) -> str:
        """Look up the weather."""
        return city

    (definition,) = tool_definitions([dspy.Tool(look_up)])
    assert (definition["type"], definition["name"]) == ("function", "look_up")
    assert definition["description"] == "Look up the weather."
    assert definition["parameters"]["required"] == ["city"]
    assert_valid({"gen_ai.tool.definitions": [definition]})


@pytest.mark.parametrize(
    ("result", "documents"),
    [
        (
            dspy.Prediction(passages=["a", "b"], indices=[0, 7], scores=[1, 0.5]),
            [{"content": "a", "id": "0", "score": 1.0}, {"content": "b", "id": "7", "score": 0.5}],
        ),
        ([{"text": "a", "pid": 3, "score": "high"}], [{"content": "a", "id": "3"}]),
        ([{"text": "a", "id": None, "score": None}], [{"content": "a"}]),
        ([{"text": "a", "id": "x", "score": float("nan")}], [{"content": "a", "id": "x"}]),
    ],
)
def test_each_kind_of_document(result: Any, documents: Any) -> None:
    assert documents_of(result) == documents
    # The schemas require what a retriever may not report; see the last test.
    assert list(shape_faults({"gen_ai.retrieval.documents": documents}, structured=True)) == []


# --- the check itself -------------------------------------------------------------------------

FAULTY: list[tuple[str, Any]] = [
    ("gen_ai.input.messages", {}),
    ("gen_ai.input.messages", ["x"]),
    ("gen_ai.input.messages", [{"role": "user"}]),
    ("gen_ai.input.messages", [{"parts": []}]),
    ("gen_ai.output.messages", [{"role": "assistant", "parts": []}]),
    ("gen_ai.system_instructions", ["x"]),
    ("gen_ai.system_instructions", [{"content": "x"}]),
    ("gen_ai.tool.definitions", ["x"]),
    ("gen_ai.tool.definitions", [{"type": "web_search"}]),
    ("gen_ai.tool.definitions", [{"name": "f"}]),
    ("gen_ai.retrieval.documents", ["x"]),
    ("gen_ai.retrieval.documents", [{"id": 1, "score": 0.5}]),
    ("gen_ai.retrieval.documents", [{"id": "1", "score": "x"}]),
]
# Faults that the schemas of the conventions let pass, as a part of any type.
FAULTY_PARTS: list[Any] = [
    {"type": "text"},
    {"type": "text", "content": None},
    {"type": "reasoning", "content": 3},
    {"type": "tool_call"},
    {"type": "tool_call", "name": "f", "id": 7},
    {"type": "tool_call_response"},
    {"type": "server_tool_call", "name": "f", "server_tool_call": {}},
    {"type": "server_tool_call_response"},
    {"type": "blob", "modality": "image"},
    {"type": "blob", "content": "x"},
    {"type": "blob", "modality": "image", "content": "data:image/png;base64,QQ=="},
    {"type": "file", "modality": "image"},
    {"type": "uri", "modality": "image", "uri": "data:image/png;base64,QQ=="},
    {"type": "image_url"},
]


@pytest.mark.parametrize(("name", "value"), FAULTY)
def test_the_check_finds(name: str, value: Any) -> None:
    assert list(shape_faults({name: json.dumps(value)})) != []


@pytest.mark.parametrize("part", FAULTY_PARTS)
def test_the_check_finds_a_part(part: Any) -> None:
    message = {"role": "user", "parts": [part]}
    assert list(shape_faults({"gen_ai.input.messages": [message]}, structured=True)) != []
    assert list(shape_faults({"gen_ai.system_instructions": [part]}, structured=True)) != []


def test_arguments_of_tools_are_objects() -> None:
    assert list(shape_faults({"gen_ai.tool.call.arguments": "[1]"})) != []
    assert list(shape_faults({"gen_ai.tool.call.arguments": '{"a": 1}'})) == []


def test_a_value_that_was_cut_or_replaced_has_no_shape() -> None:
    assert list(shape_faults({"gen_ai.input.messages": '"hidden"'})) == []
    cut = {"gen_ai.input.messages": "[3]", "dspy.truncated": ("gen_ai.input.messages",)}
    assert list(shape_faults(cut)) == []


# --- the same with the schemas of the conventions, where they are at hand ----------------------

_SCHEMAS = {
    "gen_ai.input.messages": "input-messages.json",
    "gen_ai.output.messages": "output-messages.json",
    "gen_ai.system_instructions": "system-instructions.json",
    "gen_ai.tool.definitions": "tool-definitions.json",
    "gen_ai.retrieval.documents": "retrieval-documents.json",
}


def _validators() -> dict[str, Any]:
    given = os.environ.get("GENAI_SCHEMAS")
    folder = Path(given) if given else ROOT.parent / "shared" / "data" / "genai-schemas"
    if not folder.is_dir():
        return {}
    jsonschema = pytest.importorskip("jsonschema")
    return {
        name: jsonschema.Draft202012Validator(json.loads((folder / file).read_text("utf-8")))
        for name, file in _SCHEMAS.items()
    }


@pytest.fixture(scope="module")
def validators() -> dict[str, Any]:
    found = _validators()
    if not found:
        pytest.skip("GENAI_SCHEMAS names no folder with the schemas of the conventions")
    return found


def assert_valid(attributes: Mapping[str, Any]) -> None:
    assert list(shape_faults(attributes, structured=True)) == []
    for name, validator in _validators().items():
        if name in attributes:
            assert [error.message for error in validator.iter_errors(attributes[name])] == []


@pytest.mark.parametrize(("name", "value"), FAULTY)
def test_the_schemas_agree_on_faults(validators: dict[str, Any], name: str, value: Any) -> None:
    assert not validators[name].is_valid(value)


@pytest.mark.parametrize("part", FAULTY_PARTS)
def test_the_schemas_are_not_stricter(validators: dict[str, Any], part: Any) -> None:
    """A generic part forgives each of these faults; the check of this repository does not."""
    assert validators["gen_ai.system_instructions"].is_valid([part])


def test_the_schemas_require_what_a_retriever_may_not_report(validators: dict[str, Any]) -> None:
    """The difference that is known: later conventions require neither."""
    document = {"content": "x"}
    assert list(shape_faults({"gen_ai.retrieval.documents": [document]}, structured=True)) == []
    assert not validators["gen_ai.retrieval.documents"].is_valid([document])
