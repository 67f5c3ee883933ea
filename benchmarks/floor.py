# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The floor: the same spans with the same attributes, made by hand with the bare SDK."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, Tracer

_JSON_STARTS = ("{", "[", '"')


@dataclass(frozen=True)
class Recipe:
    """The data that is needed to make a span like a given span."""

    name: str
    kind: SpanKind
    plain: dict[str, Any]
    """Attributes that are set unchanged."""
    content: dict[str, Any]
    """Values of attributes whose JSON text has to be made for each span."""


def recipe(span: ReadableSpan) -> Recipe:
    """Return the recipe of a span like this span."""
    plain: dict[str, Any] = {}
    content: dict[str, Any] = {}
    for name, value in (span.attributes or {}).items():
        decoded = _decoded(value)
        if decoded is None:
            plain[name] = value
        else:
            content[name] = decoded
    return Recipe(span.name, span.kind, plain, content)


def _decoded(value: Any) -> Any:
    """Decode a JSON text; None if it is not the text of an object, an array or a string."""
    if not isinstance(value, str) or not value.startswith(_JSON_STARTS):
        return None
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def replay(recipes: Sequence[Recipe], tracer: Tracer) -> Callable[[], None]:
    """Return a function that makes one span by each recipe: start, set attributes, end."""
    steps = [(each.name, each.kind, each.plain, each.content) for each in recipes]

    def make_spans() -> None:
        for name, kind, plain, content in steps:
            span = tracer.start_span(name, kind=kind)
            span.set_attributes(plain)
            for key, value in content.items():
                span.set_attribute(key, orjson.dumps(value).decode())
            span.end()

    return make_spans
