# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Where a local root with a remote parent belongs: below its caller, or at the top."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from mlflow_bridge._export.contract import Retry, TraceSight
from mlflow_bridge._export.remote_callers import RemoteCallers
from tests.support.dspy_spans import Recorder
from tests.support.fake_delivery import wait_until

SOON = 0.01
NEVER = 1000.0
UNFINISHED = TraceSight(has_root=False, start_ms=2**62)
WITH_ROOT = TraceSight(has_root=True, start_ms=0)
WITH_CALLER = TraceSight(has_root=False, start_ms=0)


class Store:
    """What the callers see of a store, and how the spans were stored again."""

    def __init__(self, *sights: TraceSight | Retry | Exception | None) -> None:
        self.sights = list(sights)
        self.looks = 0
        self.stored: list[str] = []
        self.accepts = True
        self._lock = threading.Lock()

    def look_up(self, trace_id: int) -> TraceSight | Retry | None:
        with self._lock:
            self.looks += 1
            sight = self.sights.pop(0) if len(self.sights) > 1 else self.sights[0]
        if isinstance(sight, Exception):
            raise sight
        return sight

    def store(self, spans: Sequence[ReadableSpan], below_caller: bool) -> bool:
        place = "below" if below_caller else "top"
        self.stored += [f"{span.name} {place}" for span in spans]
        return self.accepts

    def callers(self, grace: float) -> RemoteCallers:
        return RemoteCallers(self.look_up, self.store, grace=grace)


def called_span(trace_id: int = 1, *, sampled: bool = True, remote: bool = True) -> ReadableSpan:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else 0)
    parent = SpanContext(trace_id, 0xDEF, is_remote=remote, trace_flags=flags)
    recorder = Recorder()
    recorder.tracer.start_span("called", set_span_in_context(NonRecordingSpan(parent))).end()
    taken = recorder.take()
    if taken:
        return taken[0]
    return ReadableSpan("called", context=SpanContext(trace_id, 1, False), parent=parent)


def threads() -> list[str]:
    return [found.name for found in threading.enumerate() if found.name == "mlflow-bridge-callers"]


@pytest.mark.parametrize(
    ("span", "awaits"),
    [
        (called_span(), True),
        (called_span(sampled=False), False),
        (called_span(remote=False), False),
        (Recorder().one(), False),
    ],
)
def test_only_a_sampled_remote_parent_may_come(span: ReadableSpan, awaits: bool) -> None:
    assert Store(UNFINISHED).callers(NEVER).awaits(span) is awaits


def test_a_root_that_came_needs_nothing_more() -> None:
    store = Store(WITH_ROOT)
    callers = store.callers(SOON)
    callers.add(called_span())
    wait_until(lambda: store.looks == 1)
    wait_until(lambda: not threads())
    assert store.stored == []
    assert callers.awaits(called_span(2))


def test_without_a_caller_the_called_span_becomes_the_root() -> None:
    store = Store(UNFINISHED)
    callers = store.callers(SOON)
    callers.add(called_span())
    wait_until(lambda: store.looks >= 3)
    assert store.stored == ["called top"]
    # The next traces do not wait, except for one in a while.
    assert [callers.awaits(called_span(number)) for number in (2, 3)] == [True, False]
    callers.finish(10)
    assert store.stored == ["called top"]
    assert threads() == []


def test_a_caller_that_comes_late_takes_the_span_back() -> None:
    store = Store(UNFINISHED, UNFINISHED, WITH_CALLER)
    callers = store.callers(SOON)
    callers.add(called_span())
    wait_until(lambda: len(store.stored) == 2)
    assert store.stored == ["called top", "called below"]
    assert callers.awaits(called_span(2))
    assert callers.awaits(called_span(3))


def test_a_caller_at_work_is_waited_for() -> None:
    store = Store(WITH_CALLER, WITH_CALLER, WITH_ROOT)
    callers = store.callers(SOON)
    callers.add(called_span())
    wait_until(lambda: not threads())
    assert (store.looks, store.stored) == (3, [])


@pytest.mark.parametrize("sight", [UNFINISHED, WITH_CALLER])
def test_the_end_of_the_process_ends_the_trace_and_keeps_the_place(sight: TraceSight) -> None:
    store = Store(sight)
    callers = store.callers(NEVER)
    callers.add(called_span())
    callers.finish(10)
    assert store.stored == ["called top", "called below"]
    assert threads() == []
    # What comes afterwards is complete at once.
    assert not callers.awaits(called_span(2))


@pytest.mark.parametrize("sight", [None, ValueError("?")])
def test_a_trace_that_cannot_be_found_is_left_alone(sight: Any) -> None:
    store = Store(sight)
    callers = store.callers(SOON)
    callers.add(called_span())
    wait_until(lambda: not threads())
    assert store.stored == []


def test_an_unavailable_store_is_asked_again() -> None:
    store = Store(Retry("down"), Retry("down"), WITH_ROOT)
    store.callers(SOON).add(called_span())
    wait_until(lambda: not threads())
    assert store.looks == 3


def test_a_process_that_waits_for_nothing_has_no_thread() -> None:
    callers = Store(UNFINISHED).callers(SOON)
    callers.finish(10)
    assert threads() == []


def test_many_traces_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_bridge._export.remote_callers._MAX_TRACES", 2)
    callers = Store(UNFINISHED).callers(NEVER)
    for number in (1, 2):
        callers.add(called_span(number))
    assert callers.awaits(called_span(1))
    assert not callers.awaits(called_span(3))
    callers.finish(10)
