# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans with an absent parent are roots; all other spans keep their parent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from mlflow_bridge import MLflowBatchSpanProcessor, trace_context
from mlflow_bridge._export.contract import Outcome
from mlflow_bridge._export.mapping.span import SpanMapper
from mlflow_bridge._spans.names import ABSENT_PARENT
from tests.support.fake_delivery import FakeDelivery


class Kept(FakeDelivery):
    def __init__(self) -> None:
        super().__init__()
        self.spans: dict[str, ReadableSpan] = {}

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        self.spans |= {span.name: span for span in spans}
        return super().deliver(spans)


class Here:
    """A provider of the program with a pipeline to MLflow."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self._kept = Kept()
        self.processor = MLflowBatchSpanProcessor(self._kept)
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)

    @property
    def tracer(self) -> Tracer:
        return self.provider.get_tracer("here")

    def roots(self) -> set[str]:
        """Names of the spans that MLflow takes for roots."""
        assert self.processor.force_flush()
        mapper = SpanMapper(1024)
        return {name for name, span in self._kept.spans.items() if mapper.map(span).is_root}

    def attributes(self, name: str) -> dict[str, object]:
        assert self.processor.force_flush()
        return dict(self._kept.spans[name].attributes or {})


@pytest.fixture
def here() -> Iterator[Here]:
    one = Here()
    yield one
    one.processor.close()


def under(parent: Span) -> Context:
    return set_span_in_context(parent)


def context_of(number: int, *, sampled: bool = True) -> SpanContext:
    return SpanContext(7, number, is_remote=False, trace_flags=TraceFlags(int(sampled)))


def test_a_span_with_a_parent_of_another_provider_is_a_root(here: Here) -> None:
    elsewhere = TracerProvider(shutdown_on_exit=False).get_tracer("elsewhere")
    foreign = elsewhere.start_span("foreign")
    with trace_context(session_id="s"):
        first = here.tracer.start_span("first", under(foreign))
    here.tracer.start_span("second", under(first)).end()
    first.end()
    assert here.roots() == {"first"}
    expected = f"{foreign.get_span_context().span_id:016x}"
    attributes = here.attributes("first")
    assert (attributes[ABSENT_PARENT], attributes["session.id"]) == (expected, "s")
    assert ABSENT_PARENT not in here.attributes("second")


def test_a_span_with_a_parent_of_another_implementation_is_a_root(here: Here) -> None:
    """A parent of which only the context is known, for example of a tracer of Datadog."""
    first = here.tracer.start_span("first", under(NonRecordingSpan(context_of(5))))
    here.tracer.start_span("second", under(first)).end()
    first.end()
    assert here.roots() == {"first"}


class WithoutHealth(Sampler):
    def should_sample(self, parent_context, trace_id, name, *_: object, **__: object):  # type: ignore[no-untyped-def]
        dropped = name == "health"
        return SamplingResult(Decision.DROP if dropped else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "WithoutHealth"


def test_the_child_of_a_root_that_the_sampler_dropped_is_a_root() -> None:
    here = Here(WithoutHealth())
    with here.tracer.start_as_current_span("health"):
        here.tracer.start_span("step").end()
    assert here.roots() == {"step"}
    here.processor.close()


def test_the_child_of_an_inner_span_that_the_sampler_dropped_is_no_root() -> None:
    here = Here(WithoutHealth())
    root = here.tracer.start_span("root")
    dropped = here.tracer.start_span("health", under(root))
    here.tracer.start_span("step", under(dropped)).end()
    root.end()
    assert here.roots() == {"root"}
    here.processor.close()


def test_a_local_parent_is_known_by_its_context(here: Here) -> None:
    root = here.tracer.start_span("root")
    copied = NonRecordingSpan(root.get_span_context())
    here.tracer.start_span("step", under(copied)).end()
    root.end()
    assert here.roots() == {"root"}


def test_the_child_of_a_parent_that_has_ended_is_no_root(here: Here) -> None:
    root = here.tracer.start_span("root")
    root.end()
    here.tracer.start_span("late", under(root)).end()
    assert here.roots() == {"root"}


def test_the_child_of_a_parent_from_before_the_processor_is_no_root(here: Here) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("here").start_as_current_span("root"):
        provider.add_span_processor(here.processor)
        provider.get_tracer("here").start_span("step").end()
    assert here.roots() == {"root"}


def test_the_child_of_a_parent_that_mlflow_stores_is_no_root(here: Here) -> None:
    elsewhere = TracerProvider(shutdown_on_exit=False).get_tracer("mlflow")
    marked = {"mlflow.traceRequestId": '"tr-1"'}
    with elsewhere.start_as_current_span("mlflow's", attributes=marked):
        here.tracer.start_span("step").end()
    assert here.roots() == set()
