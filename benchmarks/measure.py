# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""CPU time of a program without and with instrumentation, and of its spans made by hand."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks.programs import Program
from opentelemetry.instrumentation.dspy import DSPyInstrumentor

_JSON_STARTS = ("{", "[", '"')


@dataclass(frozen=True)
class Result:
    """Medians over all rounds, in microseconds of the calling thread's CPU time for one call."""

    program: str
    spans: int
    alone: float
    instrumented: float
    floor: float
    """Starting and ending the same spans with the same attributes, and nothing else."""

    @property
    def added(self) -> float:
        return self.instrumented - self.alone


class _NullExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def measure(program: Program, *, rounds: int, calls: int) -> Result:
    """Run the three ways of it in turns, so that a slow moment of the machine meets all of them."""
    spans = _spans_of(program)
    provider = _provider()
    make_spans = _handmade(spans, provider)
    instrumentor = DSPyInstrumentor()
    samples: dict[str, list[float]] = {"alone": [], "instrumented": [], "floor": []}
    for _ in range(rounds):
        samples["alone"].append(_time(program, calls))
        instrumentor.instrument(tracer_provider=provider, capture_content=True)
        try:
            samples["instrumented"].append(_time(program, calls))
        finally:
            instrumentor.uninstrument()
        samples["floor"].append(_time(make_spans, calls))
    provider.shutdown()
    medians = {name: statistics.median(values) for name, values in samples.items()}
    return Result(program.name, len(spans), **medians)


def _provider() -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(_NullExporter()))
    return provider


def _time(run: Callable[[], Any], calls: int) -> float:
    run()
    start = time.thread_time_ns()
    for _ in range(calls):
        run()
    return (time.thread_time_ns() - start) / calls / 1000


def _spans_of(program: Program) -> Sequence[ReadableSpan]:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    instrumentor = DSPyInstrumentor()
    instrumentor.instrument(tracer_provider=provider, capture_content=True)
    try:
        program()
    finally:
        instrumentor.uninstrument()
    return memory.get_finished_spans()


def _handmade(spans: Sequence[ReadableSpan], provider: TracerProvider) -> Callable[[], None]:
    tracer = provider.get_tracer("floor")
    recipes = [(span.name, span.kind, *_split(span)) for span in spans]

    def make_spans() -> None:
        for name, kind, plain, content in recipes:
            span = tracer.start_span(name, kind=kind)
            span.set_attributes(plain)
            for key, value in content.items():
                span.set_attribute(key, orjson.dumps(value).decode())
            span.end()

    return make_spans


def _split(span: ReadableSpan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attributes as they are, and those whose JSON text has to be made again each time."""
    plain: dict[str, Any] = {}
    content: dict[str, Any] = {}
    for name, value in (span.attributes or {}).items():
        if isinstance(value, str) and value.startswith(_JSON_STARTS):
            content[name] = orjson.loads(value)
        else:
            plain[name] = value
    return plain, content
