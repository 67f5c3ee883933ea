# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Flush, shutdown and exit of the processor: the spans they wait for, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import set_span_in_context

from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from tests.support.fake_delivery import (
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    ListSpool,
    closing,
    end_spans,
    tracer_for,
    wait_until,
)

LONG = 3600.0


def test_force_flush_is_false_when_time_runs_out_and_returns_then() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery)
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        assert processor.force_flush(20) is False
        delivery.release.set()
        assert processor.force_flush(10_000) is True


def test_force_flush_with_nothing_to_do_is_true() -> None:
    processor = DeliveryProcessor(FakeDelivery())
    assert processor.force_flush(10_000)
    processor.shutdown()
    assert processor.force_flush(10_000)


def test_force_flush_reports_only_spans_on_their_way() -> None:
    delivery = FakeDelivery(Rejected("bad"))
    processor = DeliveryProcessor(delivery)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert not processor.force_flush(10_000)
        assert processor.force_flush(10_000)


def test_force_flush_does_not_wait_for_spans_that_end_after_its_call() -> None:
    entered, release = threading.Event(), threading.Event()

    def second_batch(spans: Sequence[ReadableSpan]) -> Outcome:
        entered.set()
        release.wait(20)
        return Sent(len(spans))

    processor = DeliveryProcessor(
        FakeDelivery(lambda spans: Sent(len(spans)), second_batch),
        max_batch_size=2,
        schedule_delay_seconds=LONG,
    )
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert processor.force_flush(10_000)
        end_spans(tracer, 2, "later")
        assert entered.wait(20)
        release.set()


def test_shutdown_delivers_waiting_spans_and_is_idempotent() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, schedule_delay_seconds=LONG)
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        assert processor.close() is True
        processor.shutdown()
        assert processor.close() is True
    assert delivery.names == names
    assert delivery.closed == 1


def test_shutdown_makes_a_last_attempt_before_the_next_one_is_due() -> None:
    delivery = FakeDelivery(Retry("away", None))
    processor = DeliveryProcessor(delivery)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        wait_until(lambda: processor.status().queued == 1)
        assert processor.close() is True
    assert processor.status().stored == 1


def test_shutdown_does_not_wait_for_a_destination_that_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, max_batch_size=2, exit_timeout_seconds=0.05)
    with closing(processor) as tracer:
        end_spans(tracer, 5)
        assert delivery.entered.wait(20)
        assert processor.close() is False
        assert processor.close() is False
        assert processor.force_flush() is False
    status = processor.status()
    assert (status.accepted, status.dropped, status.queued) == (5, 5, 0)
    [line] = [record.message for record in caplog.records]
    assert line.startswith("5 of 5 spans are not in the fake store: 5 lost")
    assert "exit_timeout_seconds" in line
    delivery.release.set()
    wait_until(lambda: delivery.closed == 1)
    assert processor.status() == status


def test_shutdown_does_not_wait_for_a_destination_that_stays_unavailable() -> None:
    delivery = FakeDelivery(*[Retry("later", 3600.0)] * 100)
    processor = DeliveryProcessor(delivery, exit_timeout_seconds=0.05)
    with closing(processor) as tracer:
        end_spans(tracer, 5)
        assert processor.close() is False
    assert processor.status().dropped == 5
    wait_until(lambda: delivery.closed == 1)
    assert delivery.attempts == 1


def test_the_timeout_of_shutdown_can_be_shorter_than_that_of_the_exit() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, exit_timeout_seconds=LONG)
    with closing(processor) as tracer:
        end_spans(tracer, 5)
        processor.shutdown(timeout_millis=10)
        assert processor.status().dropped == 5
        delivery.release.set()


def test_spans_left_at_shutdown_go_to_the_spool(caplog: pytest.LogCaptureFixture) -> None:
    delivery, spool = HangingDelivery(), ListSpool()
    processor = DeliveryProcessor(
        delivery, max_batch_size=2, exit_timeout_seconds=0.05, spool=spool
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        assert processor.close() is True
        assert spool.names == names
        assert f"5 kept in {spool.path}" in caplog.text
        assert end_spans(tracer, 1, "after") == spool.names[5:]
        delivery.release.set()


def test_a_span_that_is_open_at_the_end_is_ended_marked_and_delivered() -> None:
    ended: list[ReadableSpan] = []
    delivery = FakeDelivery(lambda spans: (ended.extend(spans), Sent(len(spans)))[1])
    processor = DeliveryProcessor(delivery)
    tracer = tracer_for(processor)
    root = tracer.start_span("root")
    tracer.start_span("child", set_span_in_context(root))
    with tracer.start_as_current_span("done"):
        pass
    processor.shutdown()
    assert sorted(delivery.names) == ["child", "done", "root"]
    marks = {span.name: span.attributes.get("dspy.unfinished") for span in ended}
    assert marks == {"child": True, "root": True, "done": None}
    assert not root.is_recording()


def test_a_shutdown_in_the_middle_of_the_program_can_leave_open_spans_alone() -> None:
    processor = DeliveryProcessor(FakeDelivery())
    with closing(processor) as tracer:
        span = tracer.start_span("open")
        assert processor.close(end_open_spans=False) is True
        assert span.is_recording()


def test_spans_that_end_after_shutdown_are_counted_as_lost() -> None:
    processor = DeliveryProcessor(FakeDelivery())
    with closing(processor) as tracer:
        processor.shutdown()
        end_spans(tracer, 2)
    assert processor.status().dropped == 2
    assert processor.status().last_error == "it ended after the shutdown of the tracer provider"


def test_a_flush_that_waits_is_woken_by_the_shutdown() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, exit_timeout_seconds=0.05)
    answers: list[bool] = []
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        flush = threading.Thread(target=lambda: answers.append(processor.force_flush(60_000)))
        flush.start()
        assert delivery.entered.wait(20)
        processor.shutdown()
        flush.join(20)
        assert answers == [False]
        delivery.release.set()


def test_exit_and_shutdown_share_one_time_limit() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, exit_timeout_seconds=0.05)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        processor._before_exit()
        assert processor.status().dropped == 1
        delivery.release.set()


def test_spans_may_end_after_the_exit_handler() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        processor._before_exit()
        assert len(delivery.names) == 1
        end_spans(tracer, 1)
        processor.shutdown()
    assert len(delivery.names) == 2
