# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The small parts of the batch processor, one by one."""

from __future__ import annotations

import logging
import threading

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from mlflow_bridge._delivery.slots import Slots
from mlflow_bridge._export.contract import Backoff
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._setup.switch import SwitchableSpanProcessor
from tests.support.fake_delivery import PATIENCE


def test_backoff_doubles_up_to_its_limit() -> None:
    backoff = Backoff(first=1.0, longest=30.0, random=lambda: 1.0)
    assert [backoff.delay(attempt) for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.delay(1_000_000) == 30


def test_jitter_keeps_at_least_half_of_the_delay() -> None:
    assert Backoff(first=1.0, random=lambda: 0.0).delay(1) == 0.5


def test_retry_after_is_capped() -> None:
    backoff = Backoff(random=lambda: 0.0)
    assert backoff.delay(9, retry_after=7.5) == 7.5
    assert backoff.delay(1, retry_after=86_400) == 300
    assert backoff.delay(1, retry_after=-1) == 0


def test_slots_are_taken_and_given_back() -> None:
    slots = Slots(2, 4096)
    assert [slots.try_take() for _ in range(3)] == [True, True, False]
    assert (slots.used, slots.capacity) == (2, 2)
    slots.give_back(1)
    assert slots.used == 1


def test_a_waiting_thread_gets_the_slot_that_comes_back() -> None:
    slots = Slots(1, 4096)
    assert slots.try_take()
    taken: list[bool] = []
    waiter = threading.Thread(target=lambda: taken.append(slots.take_within(PATIENCE, [])))
    waiter.start()
    slots.give_back(1)
    waiter.join(PATIENCE)
    assert taken == [True]


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_notices_come_once_in_an_interval_and_count_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = _Clock()
    notices = RateLimitedLogger(logging.getLogger("test"), interval=60.0, clock=clock)
    for now in (0.0, 1.0, 59.0, 60.0, 61.0):
        clock.now = now
        notices.warning("lost", "lost %d", 1)
        notices.warning(f"other {now}", "other")
    lost = [record.message for record in caplog.records if record.message.startswith("lost")]
    assert lost == ["lost 1", "lost 1 (and 2 more like this before)"]
    assert len(caplog.records) == 7


class _Names(SpanProcessor):
    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.shut_down = False

    def on_start(self, span: ReadableSpan, parent_context: object = None) -> None:
        self.started.append(span.name)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span.name)

    def shutdown(self) -> None:
        self.shut_down = True

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return False


def test_a_switch_passes_on_to_its_target_of_the_moment() -> None:
    switch, first, second = SwitchableSpanProcessor(), _Names(), _Names()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(switch)
    tracer = provider.get_tracer("test")

    tracer.start_span("nobody").end()
    assert provider.force_flush()
    assert switch.switch(first) is None
    tracer.start_span("one").end()
    assert switch.switch(second) is first
    tracer.start_span("two").end()
    assert not provider.force_flush()
    provider.shutdown()

    assert (first.started, first.ended, first.shut_down) == (["one"], ["one"], False)
    assert (second.started, second.ended, second.shut_down) == (["two"], ["two"], True)
    assert switch.switch(None) is second
    switch.shutdown()
