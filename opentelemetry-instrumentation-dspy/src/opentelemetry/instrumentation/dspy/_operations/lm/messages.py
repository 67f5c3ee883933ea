# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""DSPy's messages as GenAI messages: ``{"role": ..., "parts": [...]}``.

The shape is that of ``gen_ai.input.messages`` and ``gen_ai.output.messages`` in the OpenTelemetry
GenAI semantic conventions. The source is an OpenAI-style dictionary, a message object of DSPy's
typed LM interface (3.3: pydantic, 3.4: dataclasses), or a str.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.instrumentation.dspy._content.redaction import (
    BASE64_MARK,
    MIN_DATA_URI,
    shorten_data_uri,
)
from opentelemetry.instrumentation.dspy._operations.lm.parts import (
    Part,
    Shorten,
    part_of,
    parts_of,
    reasoning_part,
    text_part,
    tool_calls_of,
    tool_response_part,
)
from opentelemetry.instrumentation.dspy._operations.reading import value

Message = dict[str, Any]


def explicit_request(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The request object of an LM call; None for the other calling conventions."""
    request = kwargs.get("request")
    if request is None and args and hasattr(args[0], "messages"):
        request = args[0]
    return request


def input_messages(
    args: tuple[Any, ...], kwargs: Mapping[str, Any], shorten: Shorten = shorten_data_uri
) -> list[Message]:
    """The input messages of an LM call, in any of the calling conventions.

    Args:
        args: The positional arguments of the call.
        kwargs: The keyword arguments of the call.
        shorten: Replaces the payload of a data URI.
    """
    request = explicit_request(args, kwargs)
    if request is not None:
        return [_message(message, shorten) for message in value(request, "messages", ())]
    messages = kwargs.get("messages")
    if messages is None and len(args) > 1:
        messages = args[1]  # (prompt, messages) were positional before 3.3
    if messages:
        return [_message(message, shorten) for message in messages]
    prompt = kwargs.get("prompt", args[0] if args else None)
    return [{"role": "user", "parts": parts_of(prompt, shorten)}]


def text_only_messages(
    args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[list[Message], int] | None:
    """The messages and their number of characters, if they only have roles and texts.

    Most calls have such messages. None for other messages, and if a text may contain a data URI.
    """
    messages: Any = kwargs.get("messages")
    kind: type[Any] = type(messages)  # type: ignore[reportUnknownVariableType]
    if kind is not list or args or kwargs.get("request") is not None:
        return None
    converted: list[Message] = []
    size = 0
    for message in messages:
        kind = type(message)  # type: ignore[reportUnknownVariableType]
        if kind is not dict or len(message) != _TEXT_MESSAGE_SIZE:
            return None
        role, text = message.get("role"), message.get("content")
        if type(role) is not str or type(text) is not str:
            return None
        length = len(text)
        if length >= MIN_DATA_URI and may_have_data_uri(text):
            return None
        size += len(role) + length
        converted.append({"role": role, "parts": [{"type": "text", "content": text}]})
    return (converted, size) if converted else None


def may_have_data_uri(text: str) -> bool:
    """Whether a text has to be searched for data URIs."""
    # Searching for one character is twenty times faster than for the mark.
    return text[:5] == "data:" or (";" in text and BASE64_MARK in text)


def output_messages(
    result: Any, finish_reasons: tuple[str, ...], shorten: Shorten = shorten_data_uri
) -> list[Message]:
    """The result of an LM call, with one message for each choice.

    The conventions require a finish reason: without a reported reason, a complete answer counts as
    ``stop``, or as ``tool_call`` if it calls tools.
    """
    messages: list[Message] = []
    outputs = list(_outputs(result))
    # Of several answers, an LM may have returned only the last.
    reasons = finish_reasons[-len(outputs) :]
    for index, output in enumerate(outputs):
        parts = _output_parts(output, shorten)
        if index < len(reasons):
            reason = reasons[index]
        else:
            calls_tools = any(part["type"] == "tool_call" for part in parts)
            reason = "tool_call" if calls_tools else "stop"
        messages.append({"role": "assistant", "parts": parts, "finish_reason": reason})
    return messages


_REASONS = {
    "tool_calls": "tool_call",  # OpenAI
    "function_call": "tool_call",
    "tool_use": "tool_call",  # Anthropic
    "end_turn": "stop",
    "stop_sequence": "stop",
    "completed": "stop",  # the Responses API
    "eos": "stop",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "model_length": "length",
    "safety": "content_filter",  # Gemini
    "failed": "error",
}


def finish_reason(reported: str) -> str:
    """A reported finish reason in the words of the conventions; an unknown reason as it is."""
    lower = reported.lower()
    return _REASONS.get(lower, lower)


def responses_finish_reason(response: Any) -> str | None:
    """The finish reason of a response of the Responses API, which has a status instead."""
    status = value(response, "status")
    if not isinstance(status, str):
        return None
    if status == "incomplete":
        cause = value(value(response, "incomplete_details"), "reason")
        return finish_reason(cause) if isinstance(cause, str) else "length"
    if status == "completed":
        items: Any = value(response, "output") or ()
        calls = any(value(item, "type") in _CALLS for item in items)
        return "tool_call" if calls else "stop"
    return finish_reason(status)


_CALLS = frozenset({"function_call", "custom_tool_call"})
_TEXT_MESSAGE = {"role", "content"}
_TEXT_MESSAGE_SIZE = len(_TEXT_MESSAGE)
# Items of the Responses API that are messages without a role.
_ASSISTANTS_ITEMS = frozenset({*_CALLS, "reasoning"})


def _message(message: Any, shorten: Shorten) -> Message:
    if isinstance(message, str):
        return {"role": "user", "parts": [text_part(message)]}
    role = value(message, "role")
    kind = value(message, "type")
    if not isinstance(role, str):
        role = "user"
        if kind in _ASSISTANTS_ITEMS:
            return {"role": "assistant", "parts": [part_of(message, shorten)]}
        if isinstance(kind, str) and kind.endswith("_call_output"):
            output = value(message, "output")
            response = tool_response_part(value(message, "call_id"), output, shorten)
            return {"role": "tool", "parts": [response]}
    parts = value(message, "parts")
    if parts is not None:
        return {"role": role, "parts": parts_of(parts, shorten)}
    content = value(message, "content")
    if role == "tool":
        response = tool_response_part(value(message, "tool_call_id"), content, shorten)
        return {"role": role, "parts": [response]}
    found = [*_reasoning(message), *parts_of(content, shorten), *tool_calls_of(message)]
    return {"role": role, "parts": found}


def _reasoning(source: Any) -> list[Part]:
    reasoning = value(source, "reasoning_content")
    return [reasoning_part(reasoning)] if isinstance(reasoning, str) and reasoning else []


def _outputs(result: Any) -> list[Any]:
    if isinstance(result, (list, tuple)):
        return list(result)  # type: ignore[reportUnknownArgumentType]
    outputs = value(result, "outputs")
    return list(outputs) if outputs is not None else [value(result, "message", result)]


def _output_parts(output: Any, shorten: Shorten) -> list[Part]:
    if output is None or isinstance(output, str):
        return parts_of(output, shorten)
    typed = value(output, "parts")
    if typed is not None:
        return parts_of(typed, shorten)
    parts: list[Part] = _reasoning(output)
    text = value(output, "text")
    if text is not None:
        parts.append(text_part(text))
    return parts + tool_calls_of(output)
