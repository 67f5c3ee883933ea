# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A tracer provider of a test's own, with the finished spans in memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler


def span_memory(
    sampler: Sampler = ALWAYS_ON, service: str = "test"
) -> tuple[TracerProvider, InMemorySpanExporter]:
    """A provider that is not the global one, and the exporter that keeps its ended spans.

    Neither ``OTEL_TRACES_SAMPLER`` nor ``OTEL_RESOURCE_ATTRIBUTES`` has a say, and nothing is left
    behind at exit.
    """
    provider = TracerProvider(
        sampler=sampler,
        resource=Resource({"service.name": service}),
        shutdown_on_exit=False,
    )
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for watch in _watches:
        provider.add_span_processor(watch)
    return provider, exporter


class SpanWatch(SpanProcessor):
    """Every recorded span of the providers that `span_memory` made meanwhile."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[int, Any] = {}
        self._ended: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        with self._changed:
            self._open[span.get_span_context().span_id] = span

    def on_end(self, span: ReadableSpan) -> None:
        with self._changed:
            self._open.pop(span.get_span_context().span_id, None)
            self._ended.append(span)
            self._changed.notify_all()

    def so_far(self) -> list[ReadableSpan]:
        """The spans that have ended by now."""
        with self._changed:
            return list(self._ended)

    def ended(self, timeout: float = 60) -> list[ReadableSpan]:
        """All spans, once the last one has ended; an AssertionError if one stays open."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._open and time.monotonic() < deadline:
                self._changed.wait(1)
            left_open = sorted(span.name for span in self._open.values())
            assert left_open == [], "spans that were not ended"
            return list(self._ended)


_watches: list[SpanWatch] = []


@contextlib.contextmanager
def watched_spans() -> Iterator[SpanWatch]:
    """Watches the spans of every provider that `span_memory` makes inside."""
    watch = SpanWatch()
    _watches.append(watch)
    try:
        yield watch
    finally:
        _watches.remove(watch)
