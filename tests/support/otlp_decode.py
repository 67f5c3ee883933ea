# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""OTLP protobuf messages as plain frozen values, for tests to compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class CollectedEvent:
    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class CollectedLink:
    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it came over the wire. Ids are hexadecimal, times nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: str
    """``INTERNAL``, ``CLIENT``, ... as in OTel's SpanKind."""
    start_time_ns: int
    end_time_ns: int
    attributes: Mapping[str, Any]
    status_code: str
    """``UNSET``, ``OK`` or ``ERROR``."""
    status_message: str
    events: tuple[CollectedEvent, ...]
    links: tuple[CollectedLink, ...]
    scope_name: str
    scope_version: str
    resource_attributes: Mapping[str, Any]
    request_headers: Mapping[str, str]
    """Names in lower case; for gRPC the metadata."""


@dataclass(frozen=True)
class OTLPRequest:
    """One export request, whether it was accepted or met a fault."""

    signal: str
    """``traces``, ``metrics`` or ``logs``; the path for anything else sent over HTTP."""
    protocol: str
    """``http`` or ``grpc``."""
    headers: Mapping[str, str]
    """Names in lower case; for gRPC the metadata."""
    size: int
    """Bytes of the body as sent."""
    time: float
    """Seconds since the epoch."""


def collected_spans(
    request: ExportTraceServiceRequest, headers: Mapping[str, str]
) -> Iterator[CollectedSpan]:
    """The spans of one export request, in the order sent."""
    for resource_spans in request.resource_spans:
        resource = attributes_of(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _collected(span, scope_spans, resource, headers)


def _collected(
    span: trace_pb2.Span,
    scope_spans: trace_pb2.ScopeSpans,
    resource: Mapping[str, Any],
    headers: Mapping[str, str],
) -> CollectedSpan:
    return CollectedSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        start_time_ns=span.start_time_unix_nano,
        end_time_ns=span.end_time_unix_nano,
        attributes=attributes_of(span.attributes),
        status_code=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        events=tuple(
            CollectedEvent(event.name, event.time_unix_nano, attributes_of(event.attributes))
            for event in span.events
        ),
        links=tuple(
            CollectedLink(link.trace_id.hex(), link.span_id.hex(), attributes_of(link.attributes))
            for link in span.links
        ),
        scope_name=scope_spans.scope.name,
        scope_version=scope_spans.scope.version,
        resource_attributes=resource,
        request_headers=headers,
    )


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """OTLP attributes as a dictionary of Python values."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    if which == "array_value":
        return [_value(item) for item in value.array_value.values]
    if which == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, which)
