# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The attribute registry of the distribution, and what a span may carry by it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests import ROOT
from tests.support.genai_schemas import shape_faults

_FOLDER = ROOT / "opentelemetry-instrumentation-dspy" / "semconv" / "registry"


@dataclass(frozen=True)
class Registered:
    """One attribute of the registry."""

    name: str
    type: str
    members: frozenset[str]
    """The values that are allowed; empty where any is."""
    is_content: bool
    """Whether it holds the program's data, so that it needs consent."""


def _load() -> Iterator[Registered]:
    for file in sorted(_FOLDER.glob("*.yaml")):
        for group in yaml.safe_load(file.read_text("utf-8"))["groups"]:
            for entry in group["attributes"]:
                if "ref" in entry:  # a metric's; what it refers to is defined elsewhere
                    continue
                kind = entry["type"]
                members = kind["members"] if isinstance(kind, dict) else ()
                yield Registered(
                    entry["id"],
                    "string" if members else kind,
                    frozenset(member["value"] for member in members),
                    entry.get("note", "").startswith("Content"),
                )


ENTRIES: list[Registered] = list(_load())
REGISTRY: Mapping[str, Registered] = {entry.name: entry for entry in ENTRIES}
CONTENT = frozenset(entry.name for entry in ENTRIES if entry.is_content)
# Content that is plain text.
JSON_CONTENT = CONTENT - {
    "dspy.signature.instructions",
    "gen_ai.evaluation.explanation",
    "gen_ai.retrieval.query.text",
    "exception.message",
    "exception.stacktrace",
}

_PYTHON_TYPES: Mapping[str, type] = {"string": str, "int": int, "double": float, "boolean": bool}


def faults_of(span: Any, *, shapes: bool = True) -> Iterator[str]:
    """What is wrong with the names, types, values and shapes on one ended span."""
    yield from _faults(span.attributes, "")
    if shapes:
        with contextlib.suppress(ValueError):  # what is no JSON is a fault of its own
            yield from shape_faults(span.attributes)
    yield from _faults(span.instrumentation_scope.attributes or {}, "scope: ")
    if "dspy.operation" not in span.attributes:
        yield "dspy.operation is missing"
    for event in span.events:
        yield from _faults(event.attributes, f"event {event.name}: ")
    yield from _unencodable({"name": span.name, "status": span.status.description or ""}, "")


def _faults(attributes: Mapping[str, Any], where: str) -> Iterator[str]:
    yield from _unencodable(attributes, where)
    for name, value in attributes.items():
        entry = REGISTRY.get(name)
        if entry is None:
            yield f"{where}{name} is not registered"
        elif not _has_type(value, entry.type):
            yield f"{where}{name} is {value!r:.80}, registered as {entry.type}"
        elif entry.members and value not in entry.members:
            yield f"{where}{name} is {value!r:.80}, registered are {sorted(entry.members)}"
        elif name in JSON_CONTENT and not _is_json(value):
            yield f"{where}{name} is not JSON: {value[:80]!r} ... {value[-80:]!r}"


def _has_type(value: Any, kind: str) -> bool:
    # By identity: True is an int to isinstance, and a backend makes another column of it.
    if kind == "string[]":
        return type(value) is tuple and all(type(item) is str for item in value)
    return type(value) is _PYTHON_TYPES[kind]


def _unencodable(attributes: Mapping[str, Any], where: str) -> Iterator[str]:
    # One string that is not UTF-8 makes an exporter drop the batch it is in.
    for name, value in attributes.items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not _is_utf8(text):
                yield f"{where}{name} cannot be encoded: {text!r:.80}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
