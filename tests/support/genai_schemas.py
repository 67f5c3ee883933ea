# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The shapes that the GenAI conventions give to content, as a check.

Written from the text of the conventions. It is stricter than their JSON schemas, in which any
object with a type is a valid part: a part whose type the conventions define must have the fields of
that type, and other types must be known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
FINISH_REASONS = frozenset({"stop", "length", "content_filter", "tool_call", "error"})
MODALITIES = frozenset({"image", "video", "audio", "document"})

Faults = Iterator[str]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_uri(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith("data:")


def _is_payload(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith("data:")


def _is_any(value: Any) -> bool:
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_typed(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(cast("dict[str, Any]", value).get("type"))


Fields = Mapping[str, Callable[[Any], bool]]
_MEDIA: Fields = {"modality": _is_text}

# The fields that a part must have, and those that it may have, by the type of the part.
PARTS: Mapping[str, tuple[Fields, Fields]] = {
    "text": ({"content": _is_text}, {}),
    "reasoning": ({"content": _is_text}, {}),
    "tool_call": ({"name": _is_text}, {"id": _is_text_or_null, "arguments": _is_any}),
    "tool_call_response": ({"response": _is_any}, {"id": _is_text_or_null}),
    "server_tool_call": (
        {"name": _is_text, "server_tool_call": _is_typed},
        {"id": _is_text_or_null},
    ),
    "server_tool_call_response": (
        {"server_tool_call_response": _is_typed},
        {"id": _is_text_or_null},
    ),
    "blob": ({**_MEDIA, "content": _is_payload}, {"mime_type": _is_text_or_null}),
    "file": ({**_MEDIA, "file_id": _is_text}, {"mime_type": _is_text_or_null}),
    "uri": ({**_MEDIA, "uri": _is_uri}, {"mime_type": _is_text_or_null}),
}
# Of this instrumentation: the conventions have no type for them.
OTHER_PARTS = frozenset({"refusal", "citation"})


def part_faults(part: Any) -> Faults:
    """The deviations of one part of a message."""
    if not isinstance(part, dict) or not isinstance(cast("dict[str, Any]", part).get("type"), str):
        yield f"a part without a type: {part!r:.80}"
        return
    fields = cast("dict[str, Any]", part)
    kind = fields["type"]
    if kind in OTHER_PARTS:
        return
    if kind not in PARTS:
        yield f"a part of the unknown type {kind}: {part!r:.120}"
        return
    required, optional = PARTS[kind]
    for name, is_valid in required.items():
        if name not in fields:
            yield f"a part of type {kind} without {name}: {part!r:.120}"
        elif not is_valid(fields[name]):
            yield f"{name} of a part of type {kind} is {fields[name]!r:.80}"
    for name, is_valid in optional.items():
        if name in fields and not is_valid(fields[name]):
            yield f"{name} of a part of type {kind} is {fields[name]!r:.80}"


def _message_faults(message: Any) -> Faults:
    if not isinstance(message, dict):
        yield f"a message that is no object: {message!r:.80}"
        return
    fields = cast("dict[str, Any]", message)
    if not isinstance(fields.get("role"), str):
        yield f"role is {fields.get('role')!r:.80}"
    if not _is_text_or_null(fields.get("name")):
        yield f"name of a message is {fields['name']!r:.80}"
    parts = fields.get("parts")
    if not isinstance(parts, list):
        yield f"parts is {parts!r:.80}"
        return
    for part in cast("list[Any]", parts):
        yield from part_faults(part)


def _output_faults(message: Any) -> Faults:
    yield from _message_faults(message)
    if isinstance(message, dict):
        reason = cast("dict[str, Any]", message).get("finish_reason")
        if not isinstance(reason, str):
            yield f"finish_reason is {reason!r:.80}"
        elif reason in ("tool_calls", "function_call", "end_turn", "max_tokens"):
            yield f"finish_reason is {reason}, in the words of a provider"


def _definition_faults(definition: Any) -> Faults:
    if not isinstance(definition, dict):
        yield f"a tool that is no object: {definition!r:.80}"
        return
    fields = cast("dict[str, Any]", definition)
    for name in ("type", "name"):
        if not isinstance(fields.get(name), str):
            yield f"{name} of a tool is {fields.get(name)!r:.80}: {definition!r:.120}"
    if fields.get("type") != "function":
        return
    if not _is_text_or_null(fields.get("description")):
        yield f"description of a tool is {fields['description']!r:.80}"
    if not isinstance(fields.get("parameters"), (dict, bool, type(None))):
        yield f"parameters of a tool are {fields['parameters']!r:.80}"


def _document_faults(document: Any) -> Faults:
    if not isinstance(document, dict):
        yield f"a document that is no object: {document!r:.80}"
        return
    fields = cast("dict[str, Any]", document)
    # In the release of the schema URL both are required, and optional later: a retriever that
    # reports neither is no fault.
    if "id" in fields and not isinstance(fields["id"], str):
        yield f"id of a document is {fields['id']!r:.80}"
    if "score" in fields and not _is_number(fields["score"]):
        yield f"score of a document is {fields['score']!r:.80}"


def _each(check: Callable[[Any], Faults]) -> Callable[[Any], Faults]:
    def faults(items: Any) -> Faults:
        if not isinstance(items, list):
            yield f"no list: {items!r:.80}"
            return
        for item in cast("list[Any]", items):
            yield from check(item)

    return faults


def _arguments_faults(arguments: Any) -> Faults:
    if not isinstance(arguments, dict):
        yield f"arguments are no object: {arguments!r:.80}"


def _no_faults(_value: Any) -> Faults:
    yield from ()


SHAPES: Mapping[str, Callable[[Any], Faults]] = {
    "gen_ai.input.messages": _each(_message_faults),
    "gen_ai.output.messages": _each(_output_faults),
    "gen_ai.system_instructions": _each(part_faults),
    "gen_ai.tool.definitions": _each(_definition_faults),
    "gen_ai.retrieval.documents": _each(_document_faults),
    "gen_ai.tool.call.arguments": _arguments_faults,
    "gen_ai.tool.call.result": _no_faults,  # any JSON
}


def shape_faults(attributes: Mapping[str, Any], *, structured: bool = False) -> Faults:
    """The deviations of the content among the attributes of a span.

    In a log record, content is ``structured``: values instead of their JSON text.
    An attribute that was shortened, or replaced as a whole by the setting ``redact``, has no shape.
    """
    cut = attributes.get("dspy.truncated", ())
    for name, check in SHAPES.items():
        if name not in attributes or name in cut:
            continue
        value = attributes[name]
        value = _plain(value) if structured else json.loads(value)
        if isinstance(value, str):
            continue
        for fault in check(value):
            yield f"{name}: {fault}"


def _plain(value: Any) -> Any:
    # The SDK makes tuples and read-only mappings of the values of a log record.
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[Any]", value)]
    return value
