# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A tracer provider of a test's own, with the finished spans in memory."""

from __future__ import annotations

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler


def span_memory(sampler: Sampler = ALWAYS_ON) -> tuple[TracerProvider, InMemorySpanExporter]:
    """A provider that is not the global one, and the exporter that keeps its ended spans.

    Neither ``OTEL_TRACES_SAMPLER`` nor ``OTEL_RESOURCE_ATTRIBUTES`` has a say, and nothing is left
    behind at exit.
    """
    provider = TracerProvider(
        sampler=sampler,
        resource=Resource({"service.name": "test"}),
        shutdown_on_exit=False,
    )
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter
