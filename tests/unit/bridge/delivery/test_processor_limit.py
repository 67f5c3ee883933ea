# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The processor with a full queue: which threads wait, which spans are spilled or lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.contract import Outcome, Sent
from tests.support.fake_delivery import (
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    ListSpool,
    closing,
    end_spans,
    wait_until,
)

LONG = 3600.0


@pytest.mark.parametrize("threads", [1, 8])
def test_a_burst_beyond_the_queue_loses_no_span_with_a_slow_destination(threads: int) -> None:
    delivery = FakeDelivery(seconds=0.0005)
    processor = DeliveryProcessor(
        delivery, max_queue_size=100, max_batch_size=20, block_seconds=20.0
    )
    each = 4_000 // threads
    with closing(processor) as tracer:
        workers = [
            threading.Thread(target=end_spans, args=(tracer, each, f"thread {number}"))
            for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert processor.force_flush(20_000)
        status = processor.status()
    assert (status.accepted, status.stored, status.dropped) == (4_000, 4_000, 0)
    assert len(set(delivery.names)) == 4_000


def test_a_full_queue_is_spilled_by_the_thread_of_the_writer() -> None:
    threads: set[str] = set()

    class Watched(ListSpool):
        def accept(self, spans: Sequence[ReadableSpan]) -> bool:
            threads.add(threading.current_thread().name)
            return super().accept(spans)

    delivery, spool = HangingDelivery(), Watched()
    processor = DeliveryProcessor(delivery, max_queue_size=4, block_seconds=LONG, spool=spool)
    with closing(processor) as tracer:
        names = end_spans(tracer, 10)
        wait_until(lambda: spool.names == names[4:])
        wait_until(lambda: processor.status().spilled == 6)
        assert threads == {"mlflow-bridge-spill"}
        status = processor.status()
        assert (status.accepted, status.queued, status.dropped) == (10, 4, 0)
        delivery.release.set()
        assert processor.force_flush(10_000)
    assert delivery.names == names[:4]


def test_the_policy_to_block_waits_for_a_slot_and_spills_no_span() -> None:
    delivery, spool = FakeDelivery(seconds=0.0005), ListSpool()
    processor = DeliveryProcessor(
        delivery,
        max_queue_size=10,
        block_seconds=LONG,
        spool=spool,
        overflow_policy="block",
        schedule_delay_seconds=0.001,
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 500)
        assert processor.force_flush(60_000)
        assert (processor.status().stored, processor.status().spilled) == (500, 0)
    assert sorted(delivery.names) == sorted(names)


async def test_the_policy_to_block_spills_on_the_thread_of_an_event_loop() -> None:
    delivery, spool = HangingDelivery(), ListSpool()
    processor = DeliveryProcessor(
        delivery,
        max_queue_size=2,
        block_seconds=LONG,
        spool=spool,
        overflow_policy="block",
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        wait_until(lambda: spool.names == names[2:])
        delivery.release.set()


def test_after_a_failed_wait_the_policy_to_block_spills() -> None:
    delivery, spool = HangingDelivery(), ListSpool()
    processor = DeliveryProcessor(
        delivery,
        max_queue_size=2,
        block_seconds=0.01,
        spool=spool,
        overflow_policy="block",
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        wait_until(lambda: spool.names == names[2:])
        assert processor.status().dropped == 0
        delivery.release.set()


def test_without_room_anywhere_spans_are_lost_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(
        delivery,
        max_queue_size=4,
        block_seconds=0.0,
        spool=ListSpool(room=0),
        max_spill_queue_size=2,
    )
    with closing(processor) as tracer:
        end_spans(tracer, 10)
        status = processor.status()
        assert (status.accepted, status.queued, status.spilled, status.dropped) == (10, 6, 0, 4)
        warnings = [record for record in caplog.records if "lost" in record.message]
        assert len(warnings) == 1
        assert "the fake store" in warnings[0].message
        assert "max_queue_size" in warnings[0].message
        assert "max_spill_queue_size" in warnings[0].message
        delivery.release.set()


def test_spans_that_the_spool_refuses_are_queued_again_when_a_slot_is_free() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, max_queue_size=2, spool=ListSpool(room=0))
    with closing(processor) as tracer:
        names = end_spans(tracer, 10)
        assert processor.status().queued == 10
        delivery.release.set()
        wait_until(lambda: processor.force_flush(1_000))
        status = processor.status()
        assert (status.stored, status.spilled, status.dropped) == (10, 0, 0)
    assert sorted(delivery.names) == sorted(names)


def test_spans_that_neither_destination_nor_spool_took_are_counted_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(
        delivery, max_queue_size=2, spool=ListSpool(room=0), exit_timeout_seconds=0.05
    )
    with closing(processor) as tracer:
        end_spans(tracer, 100)
        assert processor.close() is False
        status = processor.status()
        assert (status.accepted, status.queued, status.dropped) == (100, 0, 100)
        assert "100 of 100 spans are not in the fake store: 100 lost" in caplog.text
        delivery.release.set()


def test_a_spool_that_hangs_does_not_hold_up_the_end() -> None:
    class Hanging(ListSpool):
        may_go_on = threading.Event()

        def accept(self, spans: Sequence[ReadableSpan]) -> bool:
            if threading.current_thread().name == "mlflow-bridge-spill":
                self.may_go_on.wait(PATIENCE)
            return super().accept(spans)

    delivery, spool = HangingDelivery(), Hanging()
    processor = DeliveryProcessor(
        delivery, max_queue_size=1, spool=spool, exit_timeout_seconds=0.05
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 100)
        assert processor.close() is True
        assert sorted(spool.names) == sorted(names)
        status = processor.status()
        assert (status.accepted, status.spilled, status.dropped) == (100, 100, 0)
        Hanging.may_go_on.set()
        delivery.release.set()


def test_after_a_failed_wait_no_thread_waits_before_a_slot_is_free() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, max_queue_size=1, block_seconds=0.05)
    with closing(processor) as tracer:
        # With a wait for each of them this would take more than a minute.
        end_spans(tracer, 1_500)
        assert processor.status().dropped == 1_499
        delivery.release.set()
        assert processor.force_flush(10_000)
        end_spans(tracer, 1)
        assert processor.force_flush(10_000)
        assert processor.status().stored == 2


async def test_a_thread_with_a_running_event_loop_never_waits() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, max_queue_size=1, block_seconds=LONG)
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        assert processor.status().dropped == 2
        delivery.release.set()


def test_the_sender_itself_never_waits_for_a_slot() -> None:
    processor: DeliveryProcessor

    def end_a_span_while_sending(spans: Sequence[ReadableSpan]) -> Outcome:
        processor.on_end(spans[0])
        return Sent(len(spans))

    processor = DeliveryProcessor(
        FakeDelivery(end_a_span_while_sending), max_queue_size=1, block_seconds=LONG
    )
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert processor.force_flush(10_000)
        assert (processor.status().stored, processor.status().dropped) == (1, 1)
