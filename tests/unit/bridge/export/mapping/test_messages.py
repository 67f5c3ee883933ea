# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the GenAI conventions are converted to formats that MLflow's UI renders."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_bridge._export.mapping.messages import Chat, chat_of, openai_tools
from tests.support.dspy_spans import text_message

CALL = {"type": "tool_call", "id": "c1", "name": "search", "arguments": {"query": "東京"}}
OPENAI_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "search", "arguments": '{"query": "東京"}'},
}


def dspy_chat(inputs: Any, outputs: Any = None) -> Chat:
    return chat_of(inputs, outputs, is_dspy=True)


def test_plain_dspy_call() -> None:
    chat = chat_of(
        [text_message("system", "Answer."), text_message("user", "Hi")],
        [text_message("assistant", "one", finish_reason="stop"), text_message("assistant", "two")],
        parameters={"temperature": 0.7},
        is_dspy=True,
    )
    assert chat == Chat(
        inputs={
            "messages": [
                {"role": "system", "content": "Answer."},
                {"role": "user", "content": "Hi"},
            ],
            "temperature": 0.7,
        },
        outputs=["one", "two"],
        message_format="dspy",
    )


def test_call_of_another_instrumentation_gets_openai_shape() -> None:
    chat = chat_of(
        [text_message("user", "Hi")],
        [text_message("assistant", "Hello", finish_reason="stop")],
        system_instructions=[{"type": "text", "content": "Be brief."}],
        is_dspy=False,
    )
    assert chat.message_format == "openai"
    assert chat.inputs == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ]
    }
    assert chat.outputs == {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello"},
                "finish_reason": "stop",
            }
        ]
    }


def test_answer_with_tool_call_is_a_message() -> None:
    chat = dspy_chat([text_message("user", "Hi")], [{"role": "assistant", "parts": [CALL]}])
    assert chat.message_format == "dspy"
    assert chat.outputs == [{"role": "assistant", "content": None, "tool_calls": [OPENAI_CALL]}]


def test_conversation_with_tool_calls_is_shown_in_openai_format() -> None:
    response = {"type": "tool_call_response", "id": "c1", "response": {"hits": 2}}
    chat = dspy_chat(
        [
            text_message("user", "Hi"),
            {"role": "assistant", "parts": [{"type": "text", "content": "Wait."}, CALL]},
            {"role": "tool", "parts": [response]},
        ],
        [text_message("assistant", "Done")],
    )
    assert chat.message_format == "openai"
    assert chat.inputs is not None
    assert chat.inputs["messages"][1:] == [
        {"role": "assistant", "content": "Wait.", "tool_calls": [OPENAI_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"hits": 2}'},
    ]


def test_reasoning_stands_beside_the_answer() -> None:
    parts = [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": "Yes"}]
    chat = dspy_chat([text_message("user", "?")], [{"role": "assistant", "parts": parts}])
    assert chat.outputs == [{"role": "assistant", "content": "Yes", "reasoning": "Hm."}]


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (
            {"type": "uri", "modality": "image", "uri": "https://x/y.png"},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        ),
        (
            {"type": "blob", "mime_type": "image/gif", "content": "R0lG"},
            {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lG"}},
        ),
        (
            {"type": "file", "file_id": "f1"},
            {"type": "text", "text": '{"type": "file", "file_id": "f1"}'},
        ),
    ],
)
def test_part_that_is_not_text(part: dict[str, Any], shown: dict[str, Any]) -> None:
    parts = [{"type": "text", "content": "See:"}, part]
    chat = dspy_chat([{"role": "user", "parts": parts}])
    assert chat.inputs == {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "See:"}, shown]}]
    }


def test_texts_of_one_message_become_one_text() -> None:
    parts = [{"type": "text", "content": "a"}, {"type": "text", "content": "b"}]
    chat = dspy_chat([{"role": "user", "parts": parts}])
    assert chat.inputs == {"messages": [{"role": "user", "content": "a\nb"}]}


def test_messages_in_openai_shape_pass() -> None:
    chat = dspy_chat([{"role": "user", "content": "Hi"}])
    assert chat.inputs == {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("value", [None, "text", {}, [], ["text"], [{"no": "role"}], 5])
def test_what_holds_no_message_gives_nothing(value: Any) -> None:
    chat = dspy_chat(value, value)
    assert (chat.inputs, chat.outputs) == (None, None)


@pytest.mark.parametrize(
    "message",
    [{"parts": None}, {"parts": ["x", 5]}, {"role": None, "parts": []}, {"role": 5, "parts": [{}]}],
)
def test_malformed_message_is_still_a_message(message: dict[str, Any]) -> None:
    chat = dspy_chat([message], [message])
    assert chat.inputs is not None
    assert all(isinstance(item["role"], str) for item in chat.inputs["messages"])


FUNCTION = {"name": "search", "description": "Looks up.", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    "definition",
    [
        {"type": "function", **FUNCTION},
        {"type": "function", "function": FUNCTION},
        {**FUNCTION, "strict": None},
    ],
)
def test_tool_definition(definition: dict[str, Any]) -> None:
    assert openai_tools([definition]) == [{"type": "function", "function": FUNCTION}]


@pytest.mark.parametrize("definitions", [None, "x", [], [{}], [{"type": "web_search"}], [5]])
def test_no_tools(definitions: Any) -> None:
    assert openai_tools(definitions) == []
