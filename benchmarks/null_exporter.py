# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""An exporter that only counts the measured spans."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler


class NullExporter(SpanExporter):
    """An exporter that counts spans, and keeps them while ``kept`` is a list."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[ReadableSpan] | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.count += len(spans)
        if self.kept is not None:
            self.kept.extend(spans)
        return SpanExportResult.SUCCESS


def null_provider(sampler: Sampler | None = None) -> tuple[TracerProvider, NullExporter]:
    """Make a provider with a `NullExporter` behind OpenTelemetry's own batch processor.

    The queue is long enough for a whole round: spans that the processor drops cost nothing, and
    would make an instrumentation look cheap.
    """
    exporter = NullExporter()
    provider = TracerProvider(sampler=sampler)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=200_000))
    return provider, exporter
