# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""DSPy's messages as GenAI messages: ``{"role": ..., "parts": [...]}``.

The shape is that of ``gen_ai.input.messages`` and ``gen_ai.output.messages`` in the OpenTelemetry
GenAI semantic conventions. The source is an OpenAI-style dictionary, a message object of DSPy's
typed LM interface (3.3: pydantic, 3.4: dataclasses), or a str.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from opentelemetry.instrumentation.dspy._content.jsonable import AUDIO_KEY, as_data_uri
from opentelemetry.instrumentation.dspy._content.redaction import BASE64_MARK, MIN_DATA_URI
from opentelemetry.instrumentation.dspy._operations.reading import value

Message = dict[str, Any]
Part = dict[str, Any]


def explicit_request(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The request object of an LM call; None for the other calling conventions."""
    request = kwargs.get("request")
    if request is None and args and hasattr(args[0], "messages"):
        request = args[0]
    return request


def input_messages(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Message]:
    """The input messages of an LM call, in any of the calling conventions."""
    request = explicit_request(args, kwargs)
    if request is not None:
        return _request_messages(request)
    messages = kwargs.get("messages")
    if messages is None and len(args) > 1:
        messages = args[1]  # (prompt, messages) were positional before 3.3
    if messages:
        return [_message(message) for message in messages]
    prompt = kwargs.get("prompt", args[0] if args else None)
    return [{"role": "user", "parts": [_text(prompt)]}]


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


def output_messages(result: Any, finish_reasons: tuple[str, ...]) -> list[Message]:
    """The result of an LM call, with one message for each choice."""
    messages: list[Message] = []
    outputs = list(_outputs(result))
    # Of several answers, an LM may have returned only the last.
    reasons = finish_reasons[-len(outputs) :]
    for index, output in enumerate(outputs):
        message: Message = {"role": "assistant", "parts": _output_parts(output)}
        if index < len(reasons):
            message["finish_reason"] = reasons[index]
        messages.append(message)
    return messages


def _request_messages(request: Any) -> list[Message]:
    messages = [_message(message) for message in value(request, "messages", ())]
    system = value(request, "system")
    if system:
        parts = [_text(system)] if isinstance(system, str) else [_part(part) for part in system]
        messages.insert(0, {"role": "system", "parts": parts})
    return messages


_TEXT_MESSAGE = {"role", "content"}
_TEXT_MESSAGE_SIZE = len(_TEXT_MESSAGE)


def _is_text_message(message: Any) -> bool:
    if type(message) is not dict:
        return False
    fields: dict[str, Any] = message  # type: ignore[reportUnknownVariableType]
    return fields.keys() == _TEXT_MESSAGE and isinstance(fields["content"], str)


def _message(message: Any) -> Message:
    if _is_text_message(message):
        return {"role": message["role"], "parts": [_text(message["content"])]}
    role = value(message, "role", "user")
    parts = value(message, "parts")
    if parts is not None:
        return {"role": role, "parts": [_part(part) for part in parts]}
    content = value(message, "content")
    if role == "tool":
        response = {"type": "tool_call_response", "id": value(message, "tool_call_id")}
        return {"role": role, "parts": [{**response, "response": content}]}
    return {"role": role, "parts": [*_content_parts(content), *_tool_calls(message)]}


def _content_parts(content: Any) -> list[Part]:
    if content is None:
        return []
    if isinstance(content, str):
        return [_text(content)]
    if isinstance(content, Iterable):
        return [_part(part) for part in content]  # type: ignore[reportUnknownVariableType]
    return [_text(content)]


def _part(part: Any) -> Part:
    if isinstance(part, str):
        return _text(part)
    kind = value(part, "type", "text")
    text = value(part, "text")
    if kind in ("text", "input_text", "output_text") and text is not None:
        return _text(text)
    if kind == "thinking":
        return {"type": "reasoning", "content": text}
    if kind == "image_url":
        return {"type": "uri", "modality": "image", "uri": value(value(part, "image_url"), "url")}
    if kind == AUDIO_KEY:
        audio = as_data_uri(value(part, kind), "format")
        return {"type": "uri", "modality": "audio", "uri": value(audio, "data")}
    if kind == "tool_call":
        return _tool_call(value(part, "id"), value(part, "name"), value(part, "input"))
    if kind == "tool_result":
        return {
            "type": "tool_call_response",
            "id": value(part, "id") or value(part, "call_id"),
            "response": value(part, "content"),
        }
    return dict(part) if isinstance(part, Mapping) else _object_part(kind, part)  # type: ignore[reportUnknownArgumentType]


_MEDIA_FIELDS = ("media_type", "url", "data", "file_id", "text", "title", "value")


def _object_part(kind: str, part: Any) -> Part:
    fields = {name: value(part, name) for name in _MEDIA_FIELDS}
    if isinstance(fields["data"], str) and fields["media_type"]:
        fields["data"] = f"data:{fields['media_type']}{BASE64_MARK}{fields['data']}"
    return {"type": kind, **{name: field for name, field in fields.items() if field is not None}}


def _text(text: Any) -> Part:
    return {"type": "text", "content": text}


def _tool_call(call_id: Any, name: Any, arguments: Any) -> Part:
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # a model may write invalid JSON; keep the text
            arguments = orjson.loads(arguments)
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}


def _tool_calls(source: Any) -> list[Part]:
    calls: list[Part] = []
    for call in value(source, "tool_calls") or ():
        function = value(call, "function", call)
        name, arguments = value(function, "name"), value(function, "arguments")
        calls.append(_tool_call(value(call, "id"), name, arguments))
    return calls


def _outputs(result: Any) -> list[Any]:
    if isinstance(result, (list, tuple)):
        return list(result)  # type: ignore[reportUnknownArgumentType]
    outputs = value(result, "outputs")
    return list(outputs) if outputs is not None else [value(result, "message", result)]


def _output_parts(output: Any) -> list[Part]:
    if output is None or isinstance(output, str):
        return _content_parts(output)
    typed = value(output, "parts")
    if typed is not None:
        return [_part(part) for part in typed]
    parts: list[Part] = []
    reasoning = value(output, "reasoning_content")
    if reasoning:
        parts.append({"type": "reasoning", "content": reasoning})
    text = value(output, "text")
    if text is not None:
        parts.append(_text(text))
    return parts + _tool_calls(output)
