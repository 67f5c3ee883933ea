# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion of chat messages of the GenAI conventions to the formats that MLflow's UI renders.

Input: ``[{"role", "parts": [{"type": "text", "content"}, ...], "finish_reason"?}]`` (OpenTelemetry
GenAI conventions, ``gen_ai.input.messages``). Output: OpenAI's chat format. Plain answers of a DSPy
program become a list of texts with ``mlflow.message.format`` = ``dspy``. In this format the UI
shows DSPy's ``[[ ## field ## ]]`` marks as headings, but shows no tool calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

DSPY_FORMAT: Final = "dspy"
OPENAI_FORMAT: Final = "openai"

_Message = dict[str, Any]


@dataclass(frozen=True)
class Chat:
    """Inputs and outputs of one LM call in MLflow's format.

    Attributes:
        inputs: The span's inputs, ``{"messages": [...], ...}``, or ``None`` if unknown.
        outputs: The span's outputs, or ``None`` if unknown.
        message_format: The format of both, by which the UI reads them.
    """

    inputs: dict[str, Any] | None
    outputs: Any
    message_format: str


def chat_of(
    inputs: Any,
    outputs: Any,
    *,
    system_instructions: Any = None,
    parameters: Mapping[str, Any] | None = None,
    is_dspy: bool,
) -> Chat:
    """Convert the parsed message attributes of one LM span; ``None`` means "not recorded"."""
    asked = [*_system_messages(system_instructions), *_messages(inputs)]
    answered = _messages(outputs)
    # In the format ``dspy``, the UI does not show the tool calls of input messages.
    as_dspy = is_dspy and not any(_mentions_tools(message) for message in asked)
    request: dict[str, Any] = {"messages": asked, **(parameters or {})}
    return Chat(
        inputs=request if asked else None,
        outputs=(_dspy_outputs if as_dspy else _openai_outputs)(answered) if answered else None,
        message_format=DSPY_FORMAT if as_dspy else OPENAI_FORMAT,
    )


def openai_tools(definitions: Any) -> list[dict[str, Any]]:
    """Tool definitions in OpenAI's nested format, without definitions that name no function."""
    tools: list[dict[str, Any]] = []
    for definition in _dicts(definitions):
        function = definition.get("function")
        described = cast("dict[str, Any]", function) if isinstance(function, dict) else definition
        fields = {
            key: described[key]
            for key in ("name", "description", "parameters")
            if described.get(key) is not None
        }
        if fields.get("name"):
            tools.append({"type": "function", "function": fields})
    return tools


_FINISH: Final = "finish_reason"


def _dspy_outputs(answered: list[_Message]) -> list[Any]:
    if all(_is_text_only(message) for message in answered):
        return [message["content"] for message in answered]
    # A list of messages is shown in every format; only the headings are lost.
    return answered


def _openai_outputs(answered: list[_Message]) -> dict[str, Any]:
    return {"choices": [_choice(index, message) for index, message in enumerate(answered)]}


def _choice(index: int, message: _Message) -> dict[str, Any]:
    rest = {key: value for key, value in message.items() if key != _FINISH}
    return {"index": index, "message": rest, "finish_reason": message.get(_FINISH)}


def _is_text_only(message: _Message) -> bool:
    extra = message.keys() - {"role", "content", _FINISH}
    return isinstance(message["content"], str) and not extra


def _mentions_tools(message: _Message) -> bool:
    return "tool_calls" in message or message["role"] == "tool"


def _system_messages(instructions: Any) -> list[_Message]:
    if isinstance(instructions, str):
        return [{"role": "system", "content": instructions}]
    parts = _dicts(instructions)
    return [{"role": "system", "content": _content(parts)}] if parts else []


def _messages(value: Any) -> list[_Message]:
    converted: list[_Message] = []
    for message in _dicts(value):
        if "parts" in message:
            converted.extend(_from_parts(message))
        elif "role" in message:
            # Some instrumentations already write OpenAI's format.
            converted.append({"content": None, **message})
    return converted


def _from_parts(message: Mapping[str, Any]) -> list[_Message]:
    parts = _dicts(message["parts"])
    role = str(message.get("role") or "user")
    responses = [_tool_response(part) for part in parts if _type(part) == "tool_call_response"]
    rest = [part for part in parts if _type(part) != "tool_call_response"]
    if responses and not rest:
        return responses
    return [*responses, _message(role, rest, message)]


def _message(role: str, parts: list[dict[str, Any]], source: Mapping[str, Any]) -> _Message:
    calls = [_tool_call(part) for part in parts if _type(part) == "tool_call"]
    reasoning = [str(part.get("content", "")) for part in parts if _type(part) == "reasoning"]
    shown = [part for part in parts if _type(part) not in ("tool_call", "reasoning")]
    message: _Message = {"role": role, "content": _content(shown) if shown or not calls else None}
    if calls:
        message["tool_calls"] = calls
    if reasoning:
        message["reasoning"] = "\n".join(reasoning)
    for key in ("name", _FINISH):
        if source.get(key):
            message[key] = source[key]
    return message


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if all(_type(part) == "text" for part in parts):
        # Joined into one text, since the UI finds DSPy's field marks in texts only.
        return "\n".join(str(part.get("content", "")) for part in parts)
    return [_content_part(part) for part in parts]


def _content_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = _type(part)
    if kind == "text":
        return {"type": "text", "text": str(part.get("content", ""))}
    if kind in ("uri", "blob") and _is_image(part):
        return {"type": "image_url", "image_url": {"url": _image_url(part)}}
    if kind in ("image_url", "input_audio"):
        return part
    # The UI does not show a conversation at all if it does not know the type of a part.
    return {"type": "text", "text": json.dumps(part, ensure_ascii=False, default=str)}


def _is_image(part: Mapping[str, Any]) -> bool:
    return part.get("modality") == "image" or str(part.get("mime_type", "")).startswith("image/")


def _image_url(part: Mapping[str, Any]) -> str:
    if "uri" in part:
        return str(part["uri"])
    return f"data:{part.get('mime_type') or 'image/png'};base64,{part.get('content', '')}"


def _tool_call(part: Mapping[str, Any]) -> dict[str, Any]:
    name = str(part.get("name", ""))
    arguments = part.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": str(part.get("id") or name),
        "type": "function",
        "function": {"name": name, "arguments": text},
    }


def _tool_response(part: Mapping[str, Any]) -> _Message:
    # Earlier versions of the conventions have the name "result".
    response = part.get("response", part.get("result"))
    text = response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)
    return {"role": "tool", "tool_call_id": str(part.get("id") or ""), "content": text}


def _type(part: Mapping[str, Any]) -> str:
    return str(part.get("type", ""))


def _dicts(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    items = cast("list[Any]", value)
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]
