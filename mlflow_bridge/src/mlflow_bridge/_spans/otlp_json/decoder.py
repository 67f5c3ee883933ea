# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Decoding of OTLP lines into ended spans, which an exporter takes like any other spans."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import SpanContext, TraceState

from mlflow_bridge._spans.names import WANTED_TRACES
from mlflow_bridge._spans.otlp_json.encoder import IS_REMOTE

_KINDS: Final = {kind.value + 1: kind for kind in SpanKind}
_TRACE_FLAGS: Final = 0xFF
_WANTED_TRACES: Final = WANTED_TRACES.encode()
_Json = dict[str, Any]


class SpooledSpan(ReadableSpan):
    """An ended span that was read from a file.

    The SDK counts dropped items when it drops them; here the counts come from the file.
    """

    def __init__(self, dropped: tuple[int, int, int], **fields: Any) -> None:
        super().__init__(**fields)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        return self._dropped[2]


class _SpooledEvent(Event):
    def __init__(self, dropped: int, **fields: Any) -> None:
        super().__init__(**fields)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        return self._dropped


class _SpooledLink(Link):
    def __init__(self, dropped: int, **fields: Any) -> None:
        super().__init__(**fields)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        return self._dropped


def spans_in(line: bytes) -> list[ReadableSpan]:
    """The spans in one line.

    Raises:
        ValueError: The line is not OTLP JSON of traces, for instance because it is torn.
    """
    try:
        return list(_spans(_parsed(line)))
    # Any exception: a number without a finite value, deep nesting, bytes without end. One line that
    # a program has made must not stop the delivery of all others.
    except Exception as error:
        raise ValueError(f"not OTLP traces: {type(error).__name__} {error}") from error


def wanted_traces_in(line: bytes) -> set[int]:
    """The ids in a line of `wanted_traces_line`; empty for any other line."""
    if _WANTED_TRACES not in line:
        return set()
    try:
        found = [
            trace_id
            for group in _parsed(line)["resourceSpans"]
            for trace_id in _attributes(group.get("resource", {})).get(WANTED_TRACES, ())
        ]
        return {int(trace_id, 16) for trace_id in found}
    except Exception:  # As in spans_in.
        return set()


def _parsed(line: bytes) -> _Json:
    try:
        data: Any = orjson.loads(line)
    except ValueError:  # orjson rejects escapes of lone surrogates.
        data = json.loads(line)
    return cast("_Json", data)


def _spans(data: _Json) -> Iterator[ReadableSpan]:
    for group in data["resourceSpans"]:
        attributes = _attributes(group.get("resource", {}))
        resource = Resource(attributes, group.get("schemaUrl", ""))
        for scope_spans in group.get("scopeSpans", ()):
            scope = _scope(scope_spans)
            for span in scope_spans.get("spans", ()):
                yield _span(span, resource, scope)


def _scope(found: _Json) -> InstrumentationScope | None:
    scope = found.get("scope")
    if not scope:
        return None
    return InstrumentationScope(
        name=scope.get("name", ""),
        version=scope.get("version"),
        schema_url=found.get("schemaUrl"),
        attributes=_attributes(scope) or None,
    )


def _span(found: _Json, resource: Resource, scope: InstrumentationScope | None) -> ReadableSpan:
    context = _context(found, is_remote=False)
    status = found.get("status", {})
    dropped = (_dropped(found, "Attributes"), _dropped(found, "Events"), _dropped(found, "Links"))
    return SpooledSpan(
        dropped,
        name=found["name"],
        context=context,
        parent=_parent(found, context),
        resource=resource,
        attributes=_attributes(found),
        events=tuple(_event(event) for event in found.get("events", ())),
        links=tuple(_link(link) for link in found.get("links", ())),
        kind=_KINDS.get(found.get("kind", 0), SpanKind.INTERNAL),
        status=Status(StatusCode(status.get("code", 0)), status.get("message")),
        start_time=int(found["startTimeUnixNano"]),
        end_time=int(found["endTimeUnixNano"]),
        instrumentation_scope=scope,
    )


def _context(found: _Json, *, is_remote: bool) -> SpanContext:
    return SpanContext(
        trace_id=int(found["traceId"], 16),
        span_id=int(found["spanId"], 16),
        is_remote=is_remote,
        trace_flags=TraceFlags(found.get("flags", 0) & _TRACE_FLAGS),
        trace_state=TraceState.from_header([found["traceState"]])
        if found.get("traceState")
        else TraceState(),
    )


def _parent(found: _Json, context: SpanContext) -> SpanContext | None:
    if not found.get("parentSpanId"):
        return None
    return SpanContext(
        trace_id=context.trace_id,
        span_id=int(found["parentSpanId"], 16),
        is_remote=_is_remote(found),
        # OTLP has no flags of the parent; with the usual samplers they are equal.
        trace_flags=context.trace_flags,
        trace_state=context.trace_state,
    )


def _is_remote(found: _Json) -> bool:
    return bool(found.get("flags", 0) & IS_REMOTE)


def _event(found: _Json) -> Event:
    return _SpooledEvent(
        _dropped(found, "Attributes"),
        name=found["name"],
        attributes=_attributes(found),
        timestamp=int(found["timeUnixNano"]),
    )


def _link(found: _Json) -> Link:
    context = _context(found, is_remote=_is_remote(found))
    return _SpooledLink(
        _dropped(found, "Attributes"), context=context, attributes=_attributes(found)
    )


def _dropped(found: _Json, what: str) -> int:
    return int(found.get(f"dropped{what}Count", 0))


def _attributes(found: _Json) -> dict[str, Any]:
    return {item["key"]: _value(item.get("value", {})) for item in found.get("attributes", ())}


def _value(found: Mapping[str, Any]) -> Any:
    for kind, value in found.items():
        if kind in ("stringValue", "boolValue"):
            return value
        if kind == "intValue":
            return int(value)
        if kind == "doubleValue":
            return float(value)  # Also reads "NaN" and "Infinity".
        if kind == "bytesValue":
            return base64.b64decode(value)
        if kind == "arrayValue":
            return tuple(_value(item) for item in value.get("values", ()))
        if kind == "kvlistValue":
            return {item["key"]: _value(item.get("value", {})) for item in value.get("values", ())}
    return None
