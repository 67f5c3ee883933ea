# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import threading
import weakref

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Status, StatusCode, Tracer, set_span_in_context

from mlflow_bridge._spans import open_spans
from mlflow_bridge._spans.open_spans import UNFINISHED, OpenSpans


class Watcher(SpanProcessor):
    """A processor that feeds a registry, and keeps the ended spans."""

    def __init__(self) -> None:
        self.open = OpenSpans()
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.open.started(span.get_span_context().span_id, span)

    def on_end(self, span: ReadableSpan) -> None:
        self.open.ended(span.context.span_id)
        self.ended.append(span)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def tracer(watcher: Watcher) -> Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(watcher)
    return provider.get_tracer("test")


def test_a_span_is_open_from_its_start_to_its_end(watcher: Watcher, tracer: Tracer) -> None:
    span = tracer.start_span("span")
    assert len(watcher.open) == 1
    assert watcher.open.trace_ids() == {span.get_span_context().trace_id}
    span.end()
    assert len(watcher.open) == 0
    assert watcher.open.finish() == 0


def test_children_end_before_their_parents_and_are_marked(watcher: Watcher, tracer: Tracer) -> None:
    parent = tracer.start_span("parent")
    tracer.start_span("child", set_span_in_context(parent))
    assert watcher.open.finish() == 2
    assert [span.name for span in watcher.ended] == ["child", "parent"]
    for span in watcher.ended:
        assert span.attributes == {"dspy.unfinished": True}
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == UNFINISHED
    assert len(watcher.open) == 0


@pytest.mark.parametrize("code", [StatusCode.OK, StatusCode.ERROR])
def test_a_status_that_the_program_has_set_stays(
    code: StatusCode, watcher: Watcher, tracer: Tracer
) -> None:
    span = tracer.start_span("span")
    span.set_status(Status(code))
    watcher.open.finish()
    assert (watcher.ended[0].status.status_code, watcher.ended[0].status.description) == (
        code,
        None,
    )


def test_spans_of_other_threads_and_of_abandoned_generators_are_ended(
    watcher: Watcher, tracer: Tracer
) -> None:
    def steps():
        with tracer.start_as_current_span("generator"):
            yield 1
            yield 2

    abandoned = steps()
    next(abandoned)
    thread = threading.Thread(target=lambda: tracer.start_span("thread"))
    thread.start()
    thread.join()
    tracer.start_span("without a reference")
    assert watcher.open.finish() == 3
    assert {span.name for span in watcher.ended} == {"generator", "thread", "without a reference"}


class RecordOnly(Sampler):
    def should_sample(self, *args: object, **options: object) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "RecordOnly"


def test_a_span_that_is_not_sampled_is_left_alone(watcher: Watcher) -> None:
    provider = TracerProvider(sampler=RecordOnly(), shutdown_on_exit=False)
    provider.add_span_processor(watcher)
    span = provider.get_tracer("test").start_span("span")
    assert watcher.open.finish() == 0
    assert span.is_recording()


def test_spans_that_are_never_ended_cost_a_bounded_amount_of_memory(
    watcher: Watcher, tracer: Tracer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_spans, "_HELD", 100)
    monkeypatch.setattr(open_spans, "_DEMOTED_AT_ONCE", 20)
    old = tracer.start_span("old")
    forgotten = weakref.ref(tracer.start_span("forgotten"))
    for _ in range(1_000):
        tracer.start_span("forgotten")
    gc.collect()
    assert forgotten() is None
    assert len(watcher.open) <= 101
    # A span that the program still refers to is not forgotten.
    assert old.get_span_context().trace_id in watcher.open.trace_ids()
    old.end()
    assert old.get_span_context().trace_id not in watcher.open.trace_ids()
    assert watcher.open.finish() <= 100


def test_many_threads(watcher: Watcher, tracer: Tracer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_spans, "_HELD", 50)
    monkeypatch.setattr(open_spans, "_DEMOTED_AT_ONCE", 25)

    def work() -> None:
        for _ in range(50):
            spans = [tracer.start_span("span") for _ in range(40)]
            for span in spans:
                span.end()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(watcher.open) == 0
    assert len(watcher.ended) == 8_000


def test_a_processor_that_raises_does_not_keep_other_spans_from_being_ended(
    watcher: Watcher, tracer: Tracer, caplog: pytest.LogCaptureFixture
) -> None:
    def end(span: ReadableSpan) -> None:
        Watcher.on_end(watcher, span)
        if span.name == "bad":
            raise ValueError("a bug")

    watcher.on_end = end
    for name in ("one", "bad", "two"):
        tracer.start_span(name)
    assert watcher.open.finish() == 2
    assert [span.name for span in watcher.ended] == ["two", "bad", "one"]
    assert "bad could not be ended" in caplog.text
