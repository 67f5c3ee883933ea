# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Reading DSPy's prompts and writing answers that its Chat, JSON and XML adapters can parse.

The prompt formats are those of dspy 3.0 to 3.4: a sentence "Respond with ..." names the output
fields, and the description of the fields carries a note on each value that is not plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from xml.etree import ElementTree

from tests.support.json_samples import sample
from tests.support.openai_messages import JSONObject, Reply, Request, ToolCall

_REQUEST_STARTS = "Respond with "
_CHAT_FIELD = re.compile(r"`\[\[ ## (\w+) ## \]\]`")
_JSON_FIELD = re.compile(r"`(\w+)`")
_XML_FIELD = re.compile(r"`<(\w+)>`")
_NOTE = re.compile(r"\{(\w+)\}\s+# note: the value you produce (.*)")
_XML_STRUCTURE = "Use this nested XML structure: "
_JSON_OUTPUTS = "Outputs will be a JSON object with the following fields."


def chat_text(**fields: Any) -> str:
    """The fields as a model writes them for DSPy's ChatAdapter."""
    sections = [f"[[ ## {name} ## ]]\n{_plain(value)}" for name, value in fields.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def json_text(**fields: Any) -> str:
    """The fields as a model writes them for DSPy's JSONAdapter."""
    return json.dumps(fields, ensure_ascii=False)


def xml_text(**fields: Any) -> str:
    """The fields as a model writes them for DSPy's XMLAdapter."""
    return "\n\n".join(
        f"<{name}>\n{_plain(value).replace('&', '&amp;').replace('<', '&lt;')}\n</{name}>"
        for name, value in fields.items()
    )


def _plain(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


@dataclass(frozen=True)
class Asked:
    """What a prompt asks for: the adapter's format and a fitting value for each output field."""

    format: str
    """``chat``, ``json`` or ``xml``."""
    fields: Mapping[str, Any]

    def text(self) -> str:
        write = {"chat": chat_text, "json": json_text, "xml": xml_text}[self.format]
        return write(**self.fields)


def asked_of(request: Request) -> Asked | None:
    """The output fields that a DSPy prompt asks for, or None when it is not DSPy's."""
    schema = _response_schema(request)
    if schema is not None:
        return Asked("json", cast("JSONObject", sample(schema, "answer")))
    prompt = "\n".join(text for role, text in request.messages if role != "assistant")
    sentence = prompt[prompt.rfind(_REQUEST_STARTS) :] if _REQUEST_STARTS in prompt else ""
    notes = _notes(prompt)
    if sentence.startswith("Respond with a JSON object"):
        return Asked("json", _filled(_JSON_FIELD.findall(sentence), notes))
    if "wrapped in XML tags" in sentence:
        return Asked("xml", _filled(_XML_FIELD.findall(sentence), notes | _structures(sentence)))
    names = [name for name in _CHAT_FIELD.findall(sentence) if name != "completed"]
    return Asked("chat", _filled(names, notes)) if names else None


def answer_dspy_prompt(request: Request) -> Reply:
    """The default responder: every output field gets a fixed value of the type asked for.

    Text fields get ``<name> value``. Among the choices of a ``Literal`` it takes the first one,
    but ``finish`` where that is one of them, so that an agent comes to an end. A tool that the
    request forces, and ReActV2's ``submit``, is called with made-up arguments. A prompt that is
    not DSPy's is answered with ``some text``.
    """
    call = _expected_tool_call(request)
    if call is not None:
        return Reply(None, tool_calls=(call,))
    asked = asked_of(request)
    return Reply("some text" if asked is None else asked.text())


def _filled(names: list[str], samples: Mapping[str, Any]) -> dict[str, Any]:
    return {name: samples.get(name, f"{name} value") for name in names}


def _response_schema(request: Request) -> JSONObject | None:
    """The schema of ``response_format`` (chat) or ``text.format`` (Responses API)."""
    text: JSONObject = request.json.get("text") or {}
    wanted: JSONObject = request.json.get("response_format") or text.get("format") or {}
    if wanted.get("type") != "json_schema":
        return None
    return wanted.get("json_schema", wanted).get("schema")


def _notes(prompt: str) -> dict[str, Any]:
    lines = _json_template(prompt) or prompt.splitlines()
    found = [_NOTE.search(line) for line in lines]
    return {note[1]: _sample_for(note[1], note[2]) for note in found if note}


def _json_template(prompt: str) -> list[str]:
    """The values of JSONAdapter's template, in which the notes stand escaped in JSON strings."""
    _, marker, rest = prompt.partition(_JSON_OUTPUTS)
    if not marker:
        return []
    template, _ = json.JSONDecoder().raw_decode(rest.lstrip())
    return [str(value) for value in template.values()]


def _sample_for(name: str, note: str) -> Any:
    _, marker, choices = note.partition("one of: ")
    if marker:
        names = choices.split("; ")
        return "finish" if "finish" in names else names[0]
    _, marker, schema = note.partition("JSON schema: ")
    if marker:
        return _schema_sample(json.loads(schema), name)
    plain: dict[str, Any] = {
        "must be True or False": True,
        "must be a single int value": 1,
        "must be a single float value": 0.5,
    }
    return plain.get(note.strip(), f"{name} value")


def _schema_sample(schema: JSONObject, name: str) -> Any:
    # A made-up call would name a tool that does not exist.
    if schema.get("title") == "ToolCalls":
        return {"tool_calls": []}
    return sample(schema, name)


def _structures(sentence: str) -> dict[str, Any]:
    """Values for the fields that XMLAdapter (dspy >= 3.3) describes as nested elements."""
    _, marker, structure = sentence.partition(_XML_STRUCTURE)
    if not marker:
        return {}
    elements = ElementTree.fromstring(f"<all>{structure}</all>")
    return {element.tag: _structure_value(element) for element in elements}


def _structure_value(element: ElementTree.Element) -> Any:
    if len(element) == 0:
        return {}
    if element[0].tag == "item":
        return [_leaf_or_structure(element[0])]
    return {child.tag: _leaf_or_structure(child) for child in element}


def _leaf_or_structure(element: ElementTree.Element) -> Any:
    # The structure does not tell a leaf's type; "1" can be read as text, number and boolean.
    return _structure_value(element) if len(element) else "1"


def _expected_tool_call(request: Request) -> ToolCall | None:
    choice = request.json.get("tool_choice")
    forced = _function(cast("JSONObject", choice)).get("name") if isinstance(choice, dict) else None
    for tool in request.json.get("tools") or ():
        function = _function(tool)
        if function.get("name") == (forced or "submit"):
            arguments = sample(function.get("parameters") or {}, "arguments")
            return ToolCall(str(function["name"]), cast("JSONObject", arguments))
    return None


def _function(tool: JSONObject) -> JSONObject:
    """Chat nests the description under ``function``, the Responses API does not."""
    return tool.get("function", tool)
