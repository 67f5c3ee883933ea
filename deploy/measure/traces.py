# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Ended spans of a DSPy program, as many as wanted: one real trace, copied under new ids."""

from __future__ import annotations

import random
import time
from typing import Any

import dspy
from dspy.utils.dummies import DummyLM
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext

from opentelemetry.instrumentation.dspy import DSPyInstrumentor

_QUESTION = "Which of the towers is the tallest, and since when has it been open to visitors?"
_CONTEXT = [
    f"Passage {number}: the tower of this passage is {300 + number} metres tall, was opened in "
    f"{1900 + number}, and has had visitors on its upper platform ever since, except in wartime."
    for number in range(7)
]
_ANSWER = {"answer": "The tower of passage 6 is 306 metres tall and has been open since 1906."}


class _Answering(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict("context: list[str], question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.generate(context=_CONTEXT, question=question)


def recorded_trace() -> list[ReadableSpan]:
    """One call of a program on a scripted language model, with content, as it is recorded.

    Returns:
        Six ended spans: workflow, Predict, adapter, format, language model call, parse.
    """
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create({"service.name": "measured"}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    instrumentor = DSPyInstrumentor()
    instrumentor.instrument(tracer_provider=provider, capture_content=True, adapter_steps="spans")
    try:
        with dspy.context(lm=DummyLM([_ANSWER]), adapter=dspy.ChatAdapter()):
            _Answering()(question=_QUESTION)
    finally:
        instrumentor.uninstrument()
    return list(memory.get_finished_spans())


def content_bytes(spans: list[ReadableSpan]) -> int:
    """UTF-8 bytes of all attribute values that are text."""
    values = [value for span in spans for value in (span.attributes or {}).values()]
    return sum(len(value.encode()) for value in values if isinstance(value, str))


def copies(trace: list[ReadableSpan], count: int, seed: str) -> list[ReadableSpan]:
    """``count`` traces like this one, one after the other; the same seed gives the same ids."""
    source = random.Random(seed)
    shift = time.time_ns() - min(span.start_time or 0 for span in trace)
    return [span for _ in range(count) for span in _copy(trace, source, shift)]


def _copy(trace: list[ReadableSpan], source: random.Random, shift: int) -> list[ReadableSpan]:
    trace_id = source.getrandbits(128) or 1
    span_ids = {_context(span).span_id: source.getrandbits(64) or 1 for span in trace}

    def context(old: SpanContext) -> SpanContext:
        return SpanContext(trace_id, span_ids[old.span_id], False, old.trace_flags)

    return [
        ReadableSpan(
            name=span.name,
            context=context(_context(span)),
            parent=None if span.parent is None else context(span.parent),
            resource=span.resource,
            attributes=span.attributes,
            events=span.events,
            links=span.links,
            kind=span.kind,
            status=span.status,
            start_time=(span.start_time or 0) + shift,
            end_time=(span.end_time or 0) + shift,
            instrumentation_scope=span.instrumentation_scope,
        )
        for span in trace
    ]


def _context(span: ReadableSpan) -> Any:
    return span.context
