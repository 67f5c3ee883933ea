# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Encoding of ended spans as lines of an OTLP file.

One line is one ``TracesData`` message in the OTLP JSON encoding, as the file exporter's
specification (opentelemetry.io/docs/specs/otel/protocol/file-exporter) requires: ids are hex text,
64-bit integers are text, enumerations are numbers. OpenTelemetry's encoder goes through protobuf.
This encoder is fast enough for the thread that ends a span, it drops no attribute, and it writes
the trace flags.

Values that OTLP cannot hold change their form. An integer beyond 64 bits becomes text, a list
becomes a tuple, an object of another type becomes its ``str``. An empty version or schema of a
scope is omitted. Lone surrogates stay, as JSON escapes. OpenTelemetry's SDK checks neither names
nor times, so a program may pass any object for them. Such a span must not cost the other spans of
its line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.span import SpanContext

from mlflow_bridge._spans.names import WANTED_TRACES
from mlflow_bridge._spans.otlp_json.values import attributes_json, text_json

SPAN_MARK: Final = b'"startTimeUnixNano":'
"""Occurs once in a line for every span; inside of text its quotes would be escaped."""

HAS_IS_REMOTE: Final = 0x100
IS_REMOTE: Final = 0x200
# Unlike in opentelemetry.trace.SpanKind, 0 means "unspecified" in OTLP.
_KINDS: Final = {kind: kind.value + 1 for kind in SpanKind}
_INTERNAL: Final = _KINDS[SpanKind.INTERNAL]
_NO_STATUS: Final = b',"status":{}'
_SPAN: Final = (
    b'{"traceId":"%032x","spanId":"%016x","name":%b,"kind":%d,'
    b'"startTimeUnixNano":"%d","endTimeUnixNano":"%d"%b%b,"flags":%d}'
)
_EVENT: Final = b'{"timeUnixNano":"%d","name":%b%b%b}'
_LINK: Final = b'{"traceId":"%032x","spanId":"%016x"%b%b,"flags":%d}'
_INT64: Final = 2**63
_MAX_ENVELOPES: Final = 64
_Envelope = tuple[bytes, bytes]


def line_of(spans: Sequence[ReadableSpan]) -> bytes:
    """Encode all of these spans as one line, with its line end.

    Raises:
        ValueError: A span has no ids.
        RecursionError: A value is nested too deep.
    """
    return first_line(spans)[0]


def first_line(spans: Sequence[ReadableSpan], max_bytes: float = math.inf) -> tuple[bytes, int]:
    """Encode the first of these spans as one line. Returns the line and the number of its spans.

    Args:
        spans: The spans, at least one; the first is always in the line.
        max_bytes: A line that has reached this length gets no further span.

    Raises:
        ValueError: A span has no ids.
        RecursionError: A value is nested too deep.
    """
    groups: dict[_Envelope, list[bytes]] = {}
    texts: list[bytes] = []
    resource = scope = None
    size = count = 0
    for span in spans:
        text = _span(span)
        if span.resource is not resource or span.instrumentation_scope is not scope:
            resource, scope = span.resource, span.instrumentation_scope
            texts = groups.setdefault(_envelope(resource, scope), [])
        texts.append(text)
        size += len(text)
        count += 1
        if size >= max_bytes:
            break
    return _joined(groups), count


def wanted_traces_line(trace_ids: Iterable[int]) -> bytes:
    """Encode ids of wanted traces as a line without spans, which other readers pass over."""
    ids = tuple(f"{trace_id:032x}" for trace_id in trace_ids)
    resource = _object(attributes_json({WANTED_TRACES: ids}))
    return b'{"resourceSpans":[{"resource":%b,"scopeSpans":[]}]}\n' % resource


def _joined(groups: Mapping[_Envelope, list[bytes]]) -> bytes:
    # A single join: a further copy would take the memory of all spans once more.
    parts, comma = [b'{"resourceSpans":['], b""
    for (before, after), texts in groups.items():
        parts += (comma, before)
        for text in texts:
            parts += (text, b",")
        parts[-1], comma = after, b","
    parts.append(b"]}\n")
    return b"".join(parts)


_envelopes: dict[tuple[int, int], tuple[_Envelope, Resource, InstrumentationScope | None]] = {}


def _envelope(resource: Resource, scope: InstrumentationScope | None) -> _Envelope:
    """The text before and after the spans of this resource and scope."""
    key = (id(resource), id(scope))
    known = _envelopes.get(key)
    if known is None:
        if len(_envelopes) >= _MAX_ENVELOPES:
            _envelopes.clear()
        # Refers to both objects, so that no other objects get their ids.
        known = _envelopes[key] = (_new_envelope(resource, scope), resource, scope)
    return known[0]


def _new_envelope(resource: Resource, scope: InstrumentationScope | None) -> _Envelope:
    before = (
        b'{"resource":'
        + _object(attributes_json(resource.attributes))
        + b',"scopeSpans":[{"scope":'
        + _scope(scope)
        + b',"spans":['
    )
    after = b"]" + _schema(scope and scope.schema_url) + b"}]" + _schema(resource.schema_url) + b"}"
    return before, after


def _object(fields: bytes) -> bytes:
    """Make an object of fields that each begin with a comma."""
    return b"{" + fields[1:] + b"}"


def _schema(url: str | None) -> bytes:
    return b',"schemaUrl":' + text_json(url) if url else b""


def _scope(scope: InstrumentationScope | None) -> bytes:
    if scope is None:
        return b"{}"
    name = b',"name":' + text_json(scope.name) if scope.name else b""
    version = b',"version":' + text_json(scope.version) if scope.version else b""
    return _object(name + version + attributes_json(scope.attributes))


def _span(span: ReadableSpan) -> bytes:
    context, parent, kind, name = span.context, span.parent, span.kind, span.name
    if context is None:
        raise ValueError("the span has no ids")
    fields = (attributes_json(span.attributes), _rest(span, context, parent))
    kind = _INTERNAL if kind is SpanKind.INTERNAL else _KINDS.get(kind, 0)
    flags = context.trace_flags | _is_remote_flags(parent)
    ids = (context.trace_id, context.span_id)
    try:
        text = orjson.dumps(name) if type(name) is str else text_json(name)
        return _SPAN % (*ids, text, kind, span.start_time, span.end_time, *fields, flags)
    except (TypeError, ValueError, OverflowError):  # The name is no string, or a time is no int.
        times = (_nanoseconds(span.start_time), _nanoseconds(span.end_time))
        return _SPAN % (*ids, text_json(name), kind, *times, *fields, flags)


def _rest(span: ReadableSpan, context: SpanContext, parent: SpanContext | None) -> bytes:
    """The status, and the optional fields that are not empty: mostly only the parent id."""
    status = span.status
    plain = status.status_code is StatusCode.UNSET and not status.description
    found = _NO_STATUS if plain else _status(status)
    if parent is not None:
        found += b',"parentSpanId":"%016x"' % parent.span_id
    if state := context.trace_state:
        header = ",".join(f"{key}={value}" for key, value in state.items())
        found += b',"traceState":' + text_json(header)
    if events := span.events:
        found += b',"events":[' + b",".join(map(_event, events)) + b"]"
    if links := span.links:
        found += b',"links":[' + b",".join(map(_link, links)) + b"]"
    if count := span.dropped_attributes:
        found += _dropped(b"Attributes", count)
    if count := span.dropped_events:
        found += _dropped(b"Events", count)
    if count := span.dropped_links:
        found += _dropped(b"Links", count)
    return found


def _is_remote_flags(context: SpanContext | None) -> int:
    if context is None or not context.is_remote:
        return HAS_IS_REMOTE
    return HAS_IS_REMOTE | IS_REMOTE


def _status(status: Status) -> bytes:
    code, message = status.status_code.value, status.description
    text = b',"message":' + text_json(message) if message else b""
    return b',"status":' + _object(text + b',"code":%d' % code if code else text)


def _event(event: Event) -> bytes:
    return _EVENT % (
        _nanoseconds(event.timestamp),
        text_json(event.name),
        attributes_json(event.attributes),
        _dropped(b"Attributes", event.dropped_attributes),
    )


def _link(link: Link) -> bytes:
    context = link.context
    return _LINK % (
        context.trace_id,
        context.span_id,
        attributes_json(link.attributes),
        _dropped(b"Attributes", link.dropped_attributes),
        context.trace_flags | _is_remote_flags(context),
    )


def _dropped(what: bytes, count: int) -> bytes:
    return b',"dropped%bCount":%d' % (what, count) if count else b""


def _nanoseconds(value: Any) -> int:
    if type(value) is int and -_INT64 <= value < _INT64:
        return value
    # A float, from time.time() * 1e9, is a common mistake. NaN and non-numeric text become 0.
    try:
        return int(str(int(value or 0)))
    except (TypeError, ValueError, OverflowError):
        return 0
