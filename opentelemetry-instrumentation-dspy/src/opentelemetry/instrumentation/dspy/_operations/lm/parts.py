# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of messages in the GenAI conventions: texts, reasoning, media, calls of tools.

The source is a part of OpenAI's Chat Completions or Responses API, of Anthropic's Messages API, or
of DSPy's typed LM interface (3.3: pydantic, 3.4: dataclasses). Data is not recorded: the content of
a ``blob`` is its size and hash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from opentelemetry.instrumentation.dspy._content.encoder import to_json
from opentelemetry.instrumentation.dspy._content.redaction import BASE64_MARK, shorten_data_uri
from opentelemetry.instrumentation.dspy._operations.reading import value

Part = dict[str, Any]

Shorten = Callable[[str], str]
"""Replaces the payload of a data URI by its size and hash."""

_Convert = Callable[[Any, Shorten], "Part | None"]

_IMAGE, _AUDIO, _VIDEO, _DOCUMENT = "image", "audio", "video", "document"


def parts_of(content: Any, shorten: Shorten = shorten_data_uri) -> list[Part]:
    """The content of a message as parts: a text, or a list of parts and texts."""
    if content is None:
        return []
    if isinstance(content, (str, Mapping)) or not isinstance(content, Iterable):
        return [part_of(content, shorten)]
    return [part_of(part, shorten) for part in content]  # type: ignore[reportUnknownVariableType]


def part_of(part: Any, shorten: Shorten = shorten_data_uri) -> Part:
    """One part of a message."""
    if isinstance(part, str):
        return text_part(part)
    kind = value(part, "type")
    if not isinstance(kind, str):
        kind = "text" if value(part, "text") is not None else ""
    convert = _KINDS.get(kind)
    if convert is None and kind.endswith("_tool_result"):  # run by the provider
        convert = _server_tool_result
    converted = None if convert is None else convert(part, shorten)
    # An unknown part becomes text, which every backend shows.
    return text_part(part) if converted is None else converted


def text_part(text: Any) -> Part:
    """A part of text; any other value as its JSON."""
    return {"type": "text", "content": _as_text(text)}


def reasoning_part(text: Any) -> Part:
    """Reasoning of a model."""
    return {"type": "reasoning", "content": _as_text(text)}


def tool_call_part(call_id: Any, name: Any, arguments: Any) -> Part:
    """A call that the model wants to have made."""
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError):  # a model may write invalid JSON; keep the text
            arguments = orjson.loads(arguments)
    return {
        "type": "tool_call",
        "id": _id(call_id),
        "name": _as_text(name),
        "arguments": arguments,
    }


def tool_response_part(call_id: Any, content: Any, shorten: Shorten = shorten_data_uri) -> Part:
    """The result of a tool, as the model is shown it."""
    response = content
    if isinstance(content, (list, tuple)):
        parts = parts_of(content, shorten)
        is_text = all(part["type"] == "text" for part in parts)
        response = "\n".join(part["content"] for part in parts) if is_text else parts
    return {
        "type": "tool_call_response",
        "id": _id(call_id),
        "response": response,
    }


def tool_calls_of(source: Any) -> list[Part]:
    """The tool calls of a message in the format of OpenAI."""
    calls: list[Part] = []
    for call in value(source, "tool_calls") or ():
        function = value(call, "function") or value(call, "custom") or call
        arguments = value(function, "arguments", value(function, "input", value(function, "args")))
        calls.append(tool_call_part(value(call, "id"), value(function, "name"), arguments))
    function = value(source, "function_call")
    if function is not None:
        calls.append(tool_call_part(None, value(function, "name"), value(function, "arguments")))
    return calls


def _id(call_id: Any) -> str | None:
    return call_id if isinstance(call_id, str) else None


def _as_text(text: Any) -> str:
    if isinstance(text, str):
        return text
    return "" if text is None else to_json(text)


def _text(part: Any, shorten: Shorten) -> Part:
    return text_part(value(part, "text"))


def _thinking(part: Any, shorten: Shorten) -> Part:
    text = value(part, "text")
    return reasoning_part(value(part, "thinking") if text is None else text)


def _reasoning(part: Any, shorten: Shorten) -> Part:
    """An item of reasoning of the Responses API."""
    texts: Any = value(part, "content") or value(part, "summary") or ()
    if isinstance(texts, str):
        return reasoning_part(texts)
    return reasoning_part("\n".join(_as_text(value(text, "text")) for text in texts))


def _refusal(part: Any, shorten: Shorten) -> Part:
    return {"type": "refusal", "content": _as_text(value(part, "refusal", value(part, "text")))}


def _citation(part: Any, shorten: Shorten) -> Part:
    fields = ((name, value(part, name)) for name in ("text", "title", "url"))
    return {"type": "citation", **{name: field for name, field in fields if field is not None}}


def _data(part: Any, shorten: Shorten) -> Part:
    return text_part(value(part, "value"))


def _tool_call(part: Any, shorten: Shorten) -> Part:
    arguments = value(part, "input", value(part, "arguments", value(part, "args")))
    call_id = value(part, "call_id") or value(part, "id")
    return tool_call_part(call_id, value(part, "name"), arguments)


def _server_tool_call(part: Any, shorten: Shorten) -> Part:
    name = _as_text(value(part, "name"))
    call = {"type": name, "input": value(part, "input")}
    return {
        "type": "server_tool_call",
        "id": _id(value(part, "id")),
        "name": name,
        "server_tool_call": call,
    }


def _server_tool_result(part: Any, shorten: Shorten) -> Part:
    return {
        "type": "server_tool_call_response",
        "id": _id(value(part, "tool_use_id")),
        "server_tool_call_response": {
            "type": value(part, "type"),
            "content": value(part, "content"),
        },
    }


def _tool_result(part: Any, shorten: Shorten) -> Part:
    ids = (value(part, name) for name in ("call_id", "tool_use_id", "id"))
    content = value(part, "content", value(part, "output"))
    return tool_response_part(next((i for i in ids if i), None), content, shorten)


def _image_url(part: Any, shorten: Shorten) -> Part | None:
    image = value(part, "image_url")
    url = image if isinstance(image, str) else value(image, "url")
    return _media(_IMAGE, shorten, url=url, file_id=value(part, "file_id"))


def _video_url(part: Any, shorten: Shorten) -> Part | None:
    video = value(part, "video_url")
    return _media(_VIDEO, shorten, url=video if isinstance(video, str) else value(video, "url"))


def _input_audio(part: Any, shorten: Shorten) -> Part | None:
    audio = value(part, "input_audio")
    kind = value(audio, "format")
    mime_type = f"audio/{kind}" if isinstance(kind, str) else None
    data = audio if isinstance(audio, str) else value(audio, "data")
    return _media(_AUDIO, shorten, data=data, mime_type=mime_type)


def _file(part: Any, shorten: Shorten) -> Part | None:
    """A file in the format of OpenAI: of Chat Completions in ``file``, else in the part itself."""
    inner = value(part, "file")
    file = part if inner is None else inner
    return _media(
        _DOCUMENT,
        shorten,
        url=value(file, "file_url"),
        data=value(file, "file_data"),
        file_id=value(file, "file_id"),
        mime_type=value(file, "format"),
        filename=value(file, "filename"),
    )


def _source(modality: str) -> _Convert:
    """The conversion of media of DSPy's typed interface, or with a ``source`` as Anthropic's."""

    def convert(part: Any, shorten: Shorten) -> Part | None:
        inner = value(part, "source")
        source = part if inner is None else inner
        mime_type, data = value(source, "media_type"), value(source, "data")
        title = value(part, "title")
        if value(source, "type") == "text" or (
            isinstance(mime_type, str) and mime_type.startswith("text/") and inner is not None
        ):
            text = text_part(data)
            return {**text, "title": title} if isinstance(title, str) else text
        if value(source, "type") == "content":
            return text_part(value(source, "content"))
        url = value(source, "url")
        path = value(source, "path")
        if url is None and path is not None:
            url = str(path)
        kind = modality
        if isinstance(mime_type, str) and not kind:
            kind = mime_type.partition("/")[0]
        return _media(
            kind if kind in _MODALITIES else _DOCUMENT,
            shorten,
            url=url,
            data=data,
            file_id=value(source, "file_id"),
            mime_type=mime_type,
            filename=title or value(part, "filename"),
        )

    return convert


_MODALITIES = frozenset({_IMAGE, _AUDIO, _VIDEO, _DOCUMENT})


def _media(
    modality: str,
    shorten: Shorten,
    *,
    url: Any = None,
    data: Any = None,
    file_id: Any = None,
    mime_type: Any = None,
    filename: Any = None,
) -> Part | None:
    """Media as ``blob``, ``file`` or ``uri``, by what is known of it."""
    part: Part = {"type": "blob", "modality": modality}
    if isinstance(mime_type, str) and mime_type:
        part["mime_type"] = mime_type
    if isinstance(filename, str) and filename:
        part["filename"] = filename
    if isinstance(data, str) and data and not data.startswith("data:"):
        data = f"data:{part.get('mime_type', '')}{BASE64_MARK}{data}"
    uri = data if data is not None else url
    if isinstance(uri, str) and uri.startswith("data:"):
        _put_blob(part, uri, shorten)
    elif isinstance(uri, str) and uri and data is None:
        part["type"], part["uri"] = "uri", uri
    elif isinstance(file_id, str) and file_id:
        part["type"], part["file_id"] = "file", file_id
    elif isinstance(data, (bytes, bytearray)):
        part["content"] = f"[{len(data)} bytes]"
    else:
        return None
    return part


def _put_blob(part: Part, uri: str, shorten: Shorten) -> None:
    head, _, payload = uri.partition(",")
    known = head[len("data:") :].partition(";")[0].strip()
    if known:
        part["mime_type"] = known
    note = shorten(uri).partition(",")[2]
    # What does not look like a data URI is not shortened, but is data all the same here.
    unchanged = note == payload and not note.startswith("[")
    part["content"] = f"[{len(payload)} characters]" if unchanged else note


_KINDS: Mapping[str, _Convert] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "summary_text": _text,
    "thinking": _thinking,
    "redacted_thinking": _thinking,
    "reasoning": _reasoning,
    "refusal": _refusal,
    "citation": _citation,
    "data": _data,
    "tool_call": _tool_call,
    "tool_use": _tool_call,
    "function_call": _tool_call,
    "custom_tool_call": _tool_call,
    "tool_result": _tool_result,
    "function_call_output": _tool_result,
    "server_tool_use": _server_tool_call,
    "image_url": _image_url,
    "input_image": _image_url,
    "video_url": _video_url,
    "input_audio": _input_audio,
    "file": _file,
    "input_file": _file,
    "image": _source(_IMAGE),
    "audio": _source(_AUDIO),
    "video": _source(_VIDEO),
    "document": _source(_DOCUMENT),
    "binary": _source(""),
}
