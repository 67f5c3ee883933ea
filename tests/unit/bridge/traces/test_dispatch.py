# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Finished traces on their way to the trace processors of a program."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Span

from mlflow_bridge import ConfigurationError, FinishedTrace
from mlflow_bridge.traces import open_traces, workers
from mlflow_bridge.traces.dispatch import DispatchSettings, TraceDispatch
from mlflow_bridge.traces.open_traces import Limits, OpenTraces

PATIENCE = 60.0


class Place:
    """A provider with a dispatch, and the traces that one processor got."""

    def __init__(self, dispatch: TraceDispatch, **options: Any) -> None:
        self.dispatch = dispatch
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(dispatch)
        self.tracer = self.provider.get_tracer("test")
        self.given: list[FinishedTrace] = []

    def work(self, name: str) -> None:
        with self.tracer.start_as_current_span(name):
            self.tracer.start_span(f"{name} step").end()

    def names(self) -> list[str]:
        assert self.dispatch.flush(PATIENCE)
        return [found.name for found in self.given]


@pytest.fixture
def place() -> Iterator[Place]:
    dispatch = TraceDispatch(lambda: DispatchSettings(only_genai=False))
    made = Place(dispatch)
    dispatch.add(made.given.append)
    yield made
    dispatch.close(0)


def wait_for(condition: Callable[[], object], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited without success for {what}"
        time.sleep(0.01)


def test_a_processor_gets_each_trace_when_it_has_ended(place: Place) -> None:
    place.work("first")
    place.work("second")
    assert place.names() == ["first", "second"]
    assert [len(found.spans) for found in place.given] == [2, 2]
    assert all(found.complete for found in place.given)


def test_it_is_called_on_a_thread_of_its_own(place: Place) -> None:
    threads: list[str] = []
    for _ in range(2):
        place.dispatch.add(lambda _: threads.append(threading.current_thread().name + str(_.id)))
    idents: set[int] = set()
    place.dispatch.add(lambda _: idents.add(threading.get_ident()))
    place.work("one")
    place.work("two")
    assert place.names() == ["one", "two"]
    assert len(idents) == 1
    assert threading.get_ident() not in idents
    assert len(threads) == 4


def test_a_trace_is_not_given_before_its_last_span_has_ended(place: Place) -> None:
    with place.tracer.start_as_current_span("root"):
        late = place.tracer.start_span("late")
    assert place.names() == []
    late.end()
    assert place.names() == ["root"]
    assert place.given[0].complete


def test_after_thirty_seconds_a_trace_does_not_wait_for_open_spans() -> None:
    now = [0.0]
    open_ones = OpenTraces(clock=lambda: now[0])
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    root = tracer.start_span("root")
    late = tracer.start_span("late", trace.set_span_in_context(root))
    for span in (root, late):
        open_ones.started(as_readable(span), *ids(span))
    assert open_ones.ended(as_readable(root), *ids(root)) is None
    assert open_ones.seconds_to_overdue() == 30
    now[0] = 29.9
    assert open_ones.overdue() == []
    now[0] = 30.0
    [found] = open_ones.overdue()
    assert ([span.name for span in found.spans], found.complete) == (["root"], False)
    assert len(open_ones) == 0
    assert open_ones.ended(as_readable(late), *ids(late)) is None


def as_readable(span: Span) -> ReadableSpan:
    assert isinstance(span, ReadableSpan)
    return span


def ids(span: Span) -> tuple[int, int]:
    context = span.get_span_context()
    return context.trace_id, context.span_id


def test_a_trace_with_open_spans_is_given_out_as_incomplete() -> None:
    settings = DispatchSettings(only_genai=False)
    place = Place(TraceDispatch(lambda: settings, limits=Limits(late_seconds=0.05)))
    place.dispatch.add(place.given.append)
    with place.tracer.start_as_current_span("root"):
        late = place.tracer.start_span("late")
    wait_for(lambda: place.given, "the trace")
    assert [(found.name, found.complete) for found in place.given] == [("root", False)]
    late.end()
    assert place.names() == ["root"]
    place.dispatch.close(0)


def test_a_processor_that_raises_harms_no_other(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: FinishedTrace) -> None:
        raise SystemExit("no more")

    place.dispatch.add(fail)
    others: list[FinishedTrace] = []
    place.dispatch.add(others.append)
    for name in ("one", "two", "three"):
        place.work(name)
    assert place.names() == ["one", "two", "three"]
    assert len(others) == 3
    counts = [(one.processed, one.failed) for one in place.dispatch.status()]
    assert counts == [(3, 0), (3, 3), (3, 0)]
    [line] = [record.message for record in caplog.records]
    assert "raised SystemExit" in line
    assert "test_a_processor_that_raises" in line


def test_a_processor_that_hangs_harms_no_other(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    place.dispatch.add(lambda _: released.wait(PATIENCE))
    try:
        place.work("one")
        assert not place.dispatch.flush(0.1)
        place.work("two")
        assert not place.dispatch.flush(0.1)
        wait_for(lambda: len(place.given) == 2, "the other processor")
        [line] = [record.message for record in caplog.records]
        assert "further traces wait for it" in line
    finally:
        released.set()
    assert place.dispatch.flush(PATIENCE)


def test_what_a_slow_processor_misses_is_counted(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_MAX_WAITING", 3)
    released, begun = threading.Event(), threading.Event()

    def slow(_: FinishedTrace) -> None:
        begun.set()
        released.wait(PATIENCE)

    place.dispatch.add(slow)
    place.work("first")
    assert begun.wait(PATIENCE)
    for index in range(10):
        place.work(f"trace {index}")
        wait_for(lambda index=index: len(place.given) == index + 2, "the other processor")
    fast, hanging = place.dispatch.status()
    assert (fast.missed, fast.processed) == (0, 11)
    wait_for(lambda: place.dispatch.status()[1].missed == 7, "the seventh missed trace")
    assert (hanging.processed, place.dispatch.status()[1].waiting) == (0, 4)
    assert len([record for record in caplog.records if "misses traces" in record.message]) == 1
    released.set()
    assert place.dispatch.flush(PATIENCE)
    assert place.dispatch.status()[1].processed == 4


def test_a_large_trace_finds_room_where_no_other_waits(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_MAX_WAITING_BYTES", 1)
    place.work("large")
    assert place.names() == ["large"]


def test_roots_that_never_end_are_held_within_bounds() -> None:
    settings = DispatchSettings(only_genai=False)
    place = Place(TraceDispatch(lambda: settings, limits=Limits(traces=100)))
    place.dispatch.add(place.given.append)
    for index in range(2000):
        root = place.tracer.start_span(f"root {index}")
        place.tracer.start_span("step", trace.set_span_in_context(root)).end()
    assert place.dispatch.open_traces == 100
    assert place.dispatch.status()[0].missed == 1900
    root.end()  # of the youngest, which is still known
    assert place.names() == ["root 1999"]
    place.dispatch.close(0)


def test_a_processor_that_comes_later_has_missed_nothing() -> None:
    settings = DispatchSettings(only_genai=False)
    place = Place(TraceDispatch(lambda: settings, limits=Limits(traces=2)))
    place.dispatch.add(print)
    held = [place.tracer.start_span("root") for _ in range(5)]
    assert (place.dispatch.status()[0].missed, place.dispatch.open_traces) == (3, 2)
    place.dispatch.remove(print)
    place.dispatch.add(place.given.append)
    place.work("one")
    assert place.names() == ["one"]
    assert place.dispatch.status()[0].missed == 0
    held += [place.tracer.start_span("root") for _ in range(3)]
    assert place.dispatch.status()[0].missed == 1
    place.dispatch.close(0)


@pytest.mark.parametrize("limits", [Limits(spans=50), Limits(bytes=50_000)])
def test_spans_of_traces_that_never_end_are_held_within_bounds(limits: Limits) -> None:
    open_ones = OpenTraces(limits)
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    for index in range(500):
        root = tracer.start_span("root")
        step = tracer.start_span(f"step {index}", trace.set_span_in_context(root))
        for span in (root, step):
            open_ones.started(as_readable(span), *ids(span))
        step.end()
        open_ones.ended(as_readable(step), *ids(step))
        assert len(open_ones) <= 50
    assert open_ones.given_up >= 450


def test_nothing_is_left_of_traces_that_have_ended(place: Place) -> None:
    for index in range(100):
        place.work(f"trace {index}")
    assert len(place.names()) == 100
    held = place.dispatch._open
    assert (len(held), held._spans, held._bytes, held._rooted) == (0, 0, 0, {})


def test_the_defaults() -> None:
    assert open_traces.Limits() == Limits(10_000, 100_000, 134_217_728, 30.0)


@pytest.mark.scale
def test_100_000_roots_that_never_end_are_held_within_bounds(place: Place) -> None:
    for index in range(10_000):
        place.tracer.start_span(f"root {index}")
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for index in range(100_000):
            place.tracer.start_span(f"root {index}")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert place.dispatch.open_traces == 10_000
    # All 10,000 have been replaced meanwhile.
    assert after - before < 10_000_000


def test_a_trace_that_began_before_the_processor_is_not_given(place: Place) -> None:
    dispatch = TraceDispatch(lambda: DispatchSettings(only_genai=False))
    place.provider.add_span_processor(dispatch)
    given: list[FinishedTrace] = []
    with place.tracer.start_as_current_span("before"):
        dispatch.add(given.append)
        place.tracer.start_span("step").end()
    place.work("after")
    assert dispatch.flush(PATIENCE)
    assert [found.name for found in given] == ["after"]
    dispatch.close(0)


def test_the_same_function_is_added_once_and_removed_for_good(place: Place) -> None:
    place.dispatch.add(place.given.append)
    assert len(place.dispatch.status()) == 1
    place.work("first")
    assert place.names() == ["first"]
    assert place.dispatch.remove(place.given.append)
    assert not place.dispatch.remove(place.given.append)
    place.work("second")
    assert place.names() == ["first"]
    assert not place.dispatch.is_used
    assert place.dispatch.open_traces == 0


async def coroutine_function(_: FinishedTrace) -> None: ...


class CallableWithCoroutine:
    async def __call__(self, _: FinishedTrace) -> None: ...


@pytest.mark.parametrize("given", [3, None, coroutine_function, CallableWithCoroutine()])
def test_what_cannot_be_a_processor_is_refused(place: Place, given: Any) -> None:
    with pytest.raises(ConfigurationError, match="accepted: a function with one argument"):
        place.dispatch.add(given)


def test_a_flush_waits_for_the_traces_that_ended_before(place: Place) -> None:
    begun, released = threading.Event(), threading.Event()
    done: list[str] = []

    def slow(found: FinishedTrace) -> None:
        begun.set()
        released.wait(PATIENCE)
        done.append(found.name)

    place.dispatch.add(slow)
    place.work("one")
    assert begun.wait(PATIENCE)
    threading.Timer(0.05, released.set).start()
    assert place.dispatch.flush(PATIENCE)
    assert done == ["one"]


def test_a_processor_that_flushes_does_not_wait_for_itself(place: Place) -> None:
    flushed: list[bool] = []
    place.dispatch.add(lambda _: flushed.append(place.dispatch.flush(PATIENCE)))
    place.work("one")
    place.work("two")
    assert place.dispatch.flush(PATIENCE)
    assert flushed == [True, True]


def test_a_flush_of_the_tracer_provider_waits_for_no_processor(place: Place) -> None:
    released = threading.Event()
    place.dispatch.add(lambda _: released.wait(PATIENCE))
    place.work("one")
    try:
        assert place.provider.force_flush()
    finally:
        released.set()


def test_what_a_processor_calls_makes_no_traces_for_processors(place: Place) -> None:
    enabled: list[bool] = []

    def traced(found: FinishedTrace) -> None:
        enabled.append(is_instrumentation_enabled())
        place.work(f"about {found.name}")
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(context.run, place.work, "in a thread").result()
        place.tracer.start_span("in a context of its own", Context()).end()

    place.dispatch.add(traced)
    place.work("one")
    place.work("two")
    assert place.names() == ["one", "two"]
    assert place.names() == ["one", "two"]
    assert enabled == [False, False]


def test_only_traces_of_genai_are_given_if_only_those_go_to_mlflow() -> None:
    place = Place(TraceDispatch())
    place.dispatch.add(place.given.append)
    place.work("health check")
    with place.tracer.start_as_current_span("request"):
        place.tracer.start_span("chat", attributes={"gen_ai.operation.name": "chat"}).end()
    assert place.names() == ["request"]
    place.dispatch.close(0)


def test_what_a_signal_handler_raises_goes_on_to_the_program(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place.dispatch._open, "started", interrupted)
    with pytest.raises(KeyboardInterrupt):
        place.tracer.start_span("one")
    monkeypatch.undo()
    span = place.tracer.start_span("two")
    monkeypatch.setattr(place.dispatch._open, "ended", interrupted)
    with pytest.raises(KeyboardInterrupt):
        span.end()
    monkeypatch.undo()
    place.work("three")
    assert place.names() == ["three"]


def test_a_mistake_of_ours_harms_no_span(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(place.dispatch._open, "started", broken)
    monkeypatch.setattr(place.dispatch._open, "ended", broken)
    place.work("one")
    monkeypatch.undo()
    place.work("two")
    assert place.names() == ["two"]


def test_spans_that_are_not_sampled_belong_to_no_trace(place: Place) -> None:
    class DropSteps(Sampler):
        def should_sample(self, parent_context: Any, trace_id: int, name: str, *_: Any, **__: Any):
            drop = name.endswith("step") or name == "dropped"
            return SamplingResult(Decision.DROP if drop else Decision.RECORD_AND_SAMPLE)

        def get_description(self) -> str:
            return "DropSteps"

    other = Place(place.dispatch, sampler=DropSteps())
    other.work("kept")
    with other.tracer.start_as_current_span("dropped"):
        other.work("below")
    assert place.names() == ["kept", "below"]
    assert [len(found.spans) for found in place.given] == [1, 1]


def test_threads_and_tasks_keep_their_traces_apart(place: Place) -> None:
    async def task(index: int) -> None:
        with place.tracer.start_as_current_span(f"task {index}"):
            await asyncio.sleep(0)
            with place.tracer.start_as_current_span("step"):
                await asyncio.sleep(0)

    async def tasks() -> None:
        await asyncio.gather(*(task(index) for index in range(20)))

    def program(index: int) -> None:
        with place.tracer.start_as_current_span(f"program {index}"):
            context = contextvars.copy_context()
            with ThreadPoolExecutor(2) as pool:
                for _ in range(3):
                    pool.submit(context.copy().run, place.work, "part")

    asyncio.run(tasks())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(program, range(40)))
    names = place.names()
    assert sorted(names) == sorted(
        [f"task {index}" for index in range(20)] + [f"program {index}" for index in range(40)]
    )
    spans = {found.name.split()[0]: len(found.spans) for found in place.given}
    assert spans == {"task": 2, "program": 7}
    assert len({found.id for found in place.given}) == 60
    assert all(found.complete for found in place.given)


def test_two_requests_in_one_trace_that_overlap_are_one_trace(place: Place) -> None:
    caller = place.provider.get_tracer("caller").start_span("caller")
    remote = trace.SpanContext(*ids(caller), is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    token = attach(context)
    try:
        first = place.tracer.start_span("first")
        second = place.tracer.start_span("second")
        first.end()
        second.end()
    finally:
        detach(token)
    caller.end()
    assert place.names() == ["caller"]
    assert len(place.given[0].spans) == 3


def test_a_trace_that_cannot_be_read_is_missed(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("mlflow_bridge.traces.dispatch.record_of_spans", fail)
    place.work("one")
    place.dispatch.flush(PATIENCE)
    assert place.dispatch.status()[0].missed == 1
    assert "could not be read" in caplog.text
    monkeypatch.undo()
    place.work("two")
    assert place.names() == ["two"]


def test_closing_gives_out_what_has_ended(place: Place) -> None:
    place.work("one")
    place.dispatch.close(PATIENCE)
    assert [found.name for found in place.given] == ["one"]
    place.work("two")
    assert place.dispatch.flush(0)
    assert [found.name for found in place.given] == ["one"]


def test_redaction_holds_for_processors_as_well(place: Place) -> None:
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    DSPyInstrumentor().instrument(
        tracer_provider=place.provider, redact=["email"], capture_content="SPAN_ONLY"
    )
    try:
        place.tracer.start_span("root", attributes={"note": "ada@example.org"}).end()
        assert place.names() == ["root"]
        assert "ada@example.org" not in str(dict(place.given[0].root.attributes))
    finally:
        DSPyInstrumentor().uninstrument()


def test_a_root_that_starts_while_spans_of_its_trace_are_late_keeps_the_trace_open() -> None:
    now = [0.0]
    open_ones = OpenTraces(clock=lambda: now[0])
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    remote = trace.SpanContext(7, 8, is_remote=True, trace_flags=trace.TraceFlags(1))
    context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
    first, second = tracer.start_span("first", context), tracer.start_span("second", context)
    late = tracer.start_span("late", trace.set_span_in_context(first))
    for span in (first, late):
        open_ones.started(as_readable(span), *ids(span))
    open_ones.ended(as_readable(first), *ids(first))
    open_ones.started(as_readable(second), *ids(second))
    now[0] = 100.0
    assert open_ones.overdue() == []
    open_ones.ended(as_readable(second), *ids(second))
    now[0] = 200.0
    [found] = open_ones.overdue()
    assert [span.name for span in found.spans] == ["first", "second"]
