# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Ended spans as lines of an OTLP file, and back.

One line is one ``TracesData`` message in the OTLP JSON encoding, as the file exporter's
specification (opentelemetry.io/docs/specs/otel/protocol/file-exporter) asks for: ids are hex text,
64-bit integers are text, enumerations are numbers. Other than OpenTelemetry's encoder, which goes
through protobuf, this one is quick enough to run where a span ends, it drops no attribute, and it
writes the trace flags down.

What OTLP cannot hold changes its form: an integer beyond 64 bits becomes text, a list becomes a
tuple, an object of another type its ``str``, and an empty text as version or schema of a scope
is no text. Lone surrogates stay, as JSON escapes. OpenTelemetry's SDK checks neither names nor
times, so a program may have given a span any object for them; one such span must not cost the
others in its line.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import orjson
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.span import SpanContext

SPAN_MARK: Final = b'"startTimeUnixNano":'
"""Stands once in a line for every span in it; inside of text its quotes would be escaped."""

HAS_IS_REMOTE: Final = 0x100
IS_REMOTE: Final = 0x200
_INT64: Final = 2**63
# Other than in opentelemetry.trace.SpanKind, 0 stands for "unspecified" in OTLP.
_KINDS: Final = {kind: kind.value + 1 for kind in SpanKind}


def line_of(spans: Sequence[ReadableSpan]) -> bytes:
    """All of these spans in one line, with its line end.

    Raises:
        ValueError: A span has no ids.
        RecursionError: A value is nested too deep.
    """
    data = {"resourceSpans": _resource_spans(spans)}
    try:
        return orjson.dumps(data, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # Lone surrogates, which no UTF-8 can hold, as escapes.
        return json.dumps(data, separators=(",", ":")).encode("ascii") + b"\n"


def _resource_spans(spans: Sequence[ReadableSpan]) -> list[dict[str, Any]]:
    # By identity: hashing a resource costs more than writing it twice.
    groups: dict[tuple[int, int], list[ReadableSpan]] = {}
    for span in spans:
        groups.setdefault((id(span.resource), id(span.instrumentation_scope)), []).append(span)
    return [_group(members) for members in groups.values()]


def _group(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    resource, scope = spans[0].resource, spans[0].instrumentation_scope
    scope_spans: dict[str, Any] = {"scope": _scope(scope), "spans": [_span(s) for s in spans]}
    if scope is not None and scope.schema_url:
        scope_spans["schemaUrl"] = scope.schema_url
    group: dict[str, Any] = {
        "resource": _with_attributes({}, resource.attributes),
        "scopeSpans": [scope_spans],
    }
    if resource.schema_url:
        group["schemaUrl"] = resource.schema_url
    return group


def _scope(scope: InstrumentationScope | None) -> dict[str, Any]:
    if scope is None:
        return {}
    found: dict[str, Any] = {"name": scope.name} if scope.name else {}
    if scope.version:
        found["version"] = scope.version
    return _with_attributes(found, scope.attributes)


def _span(span: ReadableSpan) -> dict[str, Any]:
    context = span.context
    if context is None:
        raise ValueError("the span has no ids")
    found = _ids(context)
    if span.parent is not None:
        found["parentSpanId"] = f"{span.parent.span_id:016x}"
    if context.trace_state:
        found["traceState"] = ",".join(f"{k}={v}" for k, v in context.trace_state.items())
    found["name"] = _text_of(span.name)
    found["kind"] = _KINDS.get(span.kind, 0)
    found["startTimeUnixNano"] = _nanoseconds(span.start_time)
    found["endTimeUnixNano"] = _nanoseconds(span.end_time)
    _with_attributes(found, span.attributes)
    if span.events:
        found["events"] = [_event(event) for event in span.events]
    if span.links:
        found["links"] = [_link(link) for link in span.links]
    found["status"] = _status(span)
    _with_dropped(found, "Attributes", span.dropped_attributes)
    _with_dropped(found, "Events", span.dropped_events)
    _with_dropped(found, "Links", span.dropped_links)
    found["flags"] = context.trace_flags | _is_remote_flags(span.parent)
    return found


def _ids(context: SpanContext) -> dict[str, Any]:
    return {"traceId": f"{context.trace_id:032x}", "spanId": f"{context.span_id:016x}"}


def _is_remote_flags(context: SpanContext | None) -> int:
    return HAS_IS_REMOTE | (IS_REMOTE if context is not None and context.is_remote else 0)


def _status(span: ReadableSpan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if span.status.description:
        found["message"] = _text_of(span.status.description)
    if span.status.status_code.value:
        found["code"] = span.status.status_code.value
    return found


def _event(event: Event) -> dict[str, Any]:
    found: dict[str, Any] = {
        "timeUnixNano": _nanoseconds(event.timestamp),
        "name": _text_of(event.name),
    }
    _with_dropped(found, "Attributes", event.dropped_attributes)
    return _with_attributes(found, event.attributes)


def _link(link: Link) -> dict[str, Any]:
    found = _ids(link.context)
    _with_dropped(found, "Attributes", link.dropped_attributes)
    found["flags"] = link.context.trace_flags | _is_remote_flags(link.context)
    return _with_attributes(found, link.attributes)


def _with_dropped(found: dict[str, Any], what: str, count: int) -> None:
    if count:
        found[f"dropped{what}Count"] = count


def _with_attributes(found: dict[str, Any], attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    if attributes:
        found["attributes"] = _key_values(attributes.items())
    return found


def _key_values(items: Iterable[tuple[Any, Any]]) -> list[dict[str, Any]]:
    return [{"key": _text_of(key), "value": _value(value)} for key, value in items]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": _text_of(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(int(value))} if -_INT64 <= value < _INT64 else _big(value)
    if isinstance(value, float):
        return {"doubleValue": float(value) if math.isfinite(value) else _unreal(value)}
    if value is None:
        return {}
    if isinstance(value, (bytes, bytearray)):
        return {"bytesValue": base64.b64encode(value).decode("ascii")}
    if isinstance(value, Mapping):
        items = _key_values(cast("Mapping[Any, Any]", value).items())
        return {"kvlistValue": {"values": items} if items else {}}
    if isinstance(value, Sequence):
        values = [_value(item) for item in cast("Sequence[Any]", value)]
        return {"arrayValue": {"values": values} if values else {}}
    return {"stringValue": _text_of(value)}


def _nanoseconds(value: Any) -> str:
    # A float, from time.time() * 1e9, is a common mistake; NaN and text have no better time.
    try:
        return str(int(value or 0))
    except (TypeError, ValueError, OverflowError):
        return "0"


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        # A subclass could bring methods of its own.
        return value if type(value) is str else str.__str__(value)
    try:
        return str(value)
    except Exception:  # Of an object of the program, which must not cost the span.
        return object.__repr__(value)


def _big(value: int) -> dict[str, Any]:
    # In hex where Python refuses to write so many decimal digits.
    try:
        return {"stringValue": str(value)}
    except ValueError:
        return {"stringValue": hex(value)}


def _unreal(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
