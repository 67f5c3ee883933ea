# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Ended spans for tests of the spool, and helpers that compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._spans.otlp_json.decoder import spans_in

TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
RESOURCE = Resource({"service.name": "shop", "zero": 0}, "https://schemas.example/1")
SCOPE = InstrumentationScope("scope", "1.2", "https://schemas.example/2", {"scoped": True})


def span_with(
    attributes: Mapping[str, Any] | None = None, *, name: str = "predict", span_id: int = 7
) -> ReadableSpan:
    """An ended span with everything that a span can have."""
    state = TraceState([("vendor", "a"), ("other", "b")])
    flags = TraceFlags(TraceFlags.SAMPLED)
    return ReadableSpan(
        name=name,
        context=SpanContext(TRACE_ID, span_id, False, flags, state),
        parent=SpanContext(TRACE_ID, 0xB7, True, flags, state),
        resource=RESOURCE,
        attributes=attributes,
        events=(Event("event", {"n": 1, "list": ("a", "b")}, 123),),
        links=(Link(SpanContext(1, 2, True, flags), {"why": "because"}),),
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, "it failed"),
        start_time=1_700_000_000_000_000_001,
        end_time=1_700_000_000_000_000_999,
        instrumentation_scope=SCOPE,
    )


def spans_named(*names: str) -> list[ReadableSpan]:
    return [span_with({"n": n}, name=name, span_id=n + 1) for n, name in enumerate(names)]


def span_that_dropped() -> ReadableSpan:
    limits = SpanLimits(
        max_span_attributes=2,
        max_events=2,
        max_links=1,
        max_event_attributes=1,
        max_link_attributes=1,
    )
    tracer = TracerProvider(span_limits=limits, shutdown_on_exit=False).get_tracer("test")
    linked = SpanContext(1, 2, False)
    span = tracer.start_span(
        "root",
        attributes={str(n): n for n in range(5)},
        links=[Link(linked, {"a": 1, "b": 2}) for _ in range(3)],
    )
    for n in range(4):
        span.add_event(f"event {n}", {"a": 1, "b": 2})
    span.end()
    assert isinstance(span, ReadableSpan)
    return span


def everything_in(span: ReadableSpan) -> dict[str, Any]:
    """All public fields of a span in a form that can be compared."""
    return {
        "name": span.name,
        "context": _context(span.context),
        "parent": _context(span.parent),
        "kind": span.kind,
        "times": (span.start_time, span.end_time),
        "status": (span.status.status_code, span.status.description),
        "attributes": dict(span.attributes or {}),
        "events": [
            (e.name, e.timestamp, dict(e.attributes or {}), e.dropped_attributes)
            for e in span.events
        ],
        "links": [
            (_context(n.context), dict(n.attributes or {}), n.dropped_attributes)
            for n in span.links
        ],
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "resource": (dict(span.resource.attributes), span.resource.schema_url),
        "scope": _scope(span.instrumentation_scope),
    }


def _context(context: SpanContext | None) -> Any:
    if context is None:
        return None
    return (context.trace_id, context.span_id, context.is_remote, int(context.trace_flags))


def _scope(scope: InstrumentationScope | None) -> Any:
    if scope is None:
        return None
    # OTLP cannot tell an empty text from a missing text.
    return (
        scope.name,
        scope.version or None,
        scope.schema_url or None,
        dict(scope.attributes or {}),
    )


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("**/*.jsonl"))


def names_on_disk(directory: Path) -> set[str]:
    """Names of the spans in the files of a spool, which may be in use."""
    names: set[str] = set()
    for file in files_in(directory):
        try:
            lines = file.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:  # Delivered meanwhile.
            continue
        # The last line may not be written completely.
        names |= {span.name for line in lines if line.endswith(b"\n") for span in spans_in(line)}
    return names


def names_of(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def drained(spool: Spool) -> list[str]:
    """Names of the spans that the spool gives out, until it has no more."""
    names: list[str] = []
    while segment := spool.acquire():
        with segment.open_for_reading() as lines:
            names += [span.name for line in lines for span in spans_in(line)]
        spool.release(segment, done=True)
    return names


def endless() -> Any:
    nested: list[Any] = []
    nested.append(nested)
    return nested
