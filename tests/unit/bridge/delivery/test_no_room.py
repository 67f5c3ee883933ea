# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Both queues are full: which threads wait for the disk, and which threads never wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from tests.support.fake_delivery import (
    PATIENCE,
    DeliveryProcessor,
    HangingDelivery,
    ListSpool,
    closing,
    end_spans,
    wait_until,
)

LONG = 3600.0


class HangingSpool(ListSpool):
    """A spool that takes no span before ``may_go_on`` is set, and remembers the sizes of writes."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()
        self.sizes: list[int] = []

    def accept(self, spans: Sequence[ReadableSpan]) -> bool:
        self.may_go_on.wait(PATIENCE)
        self.sizes.append(len(spans))
        return super().accept(spans)


def full(spool: ListSpool, *, room: int) -> tuple[DeliveryProcessor, HangingDelivery]:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(
        delivery,
        max_queue_size=1,
        max_spill_queue_size=room,
        block_seconds=LONG,
        spool=spool,
    )
    return processor, delivery


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a thread that waits for the disk wait for as long as the test takes."""
    monkeypatch.setattr("mlflow_bridge._delivery.admission._GIVE_WAY_SECONDS", LONG)


@pytest.mark.usefixtures("patient")
def test_with_a_full_spill_queue_a_thread_waits_and_loses_no_span() -> None:
    spool = HangingSpool()
    processor, delivery = full(spool, room=4)
    with closing(processor) as tracer:
        thread = threading.Thread(target=end_spans, args=(tracer, 200))
        thread.start()
        wait_until(lambda: processor.status().queued == 5)
        thread.join(0.2)
        assert thread.is_alive()
        spool.may_go_on.set()
        thread.join(PATIENCE)
        wait_until(lambda: processor.status().spilled == 199)
        assert processor.status().dropped == 0
        delivery.release.set()


def test_a_wait_for_the_disk_is_short_and_not_repeated_after_a_failed_wait() -> None:
    spool = HangingSpool()
    processor, delivery = full(spool, room=4)
    with closing(processor) as tracer:
        # With a wait for each of them this would take more than a minute, and `block_seconds` is
        # far longer.
        end_spans(tracer, 2_005)
        assert (processor.status().queued, processor.status().dropped) == (5, 2_000)
        spool.may_go_on.set()
        delivery.release.set()


@pytest.mark.usefixtures("patient")
async def test_the_thread_of_an_event_loop_does_not_wait_for_the_disk() -> None:
    spool = HangingSpool()
    processor, delivery = full(spool, room=4)
    with closing(processor) as tracer:
        end_spans(tracer, 20)
        assert (processor.status().queued, processor.status().dropped) == (5, 15)
        spool.may_go_on.set()
        delivery.release.set()


@pytest.mark.usefixtures("patient")
async def test_threads_that_wait_leave_some_room_to_the_event_loop() -> None:
    spool = HangingSpool()
    processor, delivery = full(spool, room=80)
    with closing(processor) as tracer:
        thread = threading.Thread(target=end_spans, args=(tracer, 200))
        thread.start()
        wait_until(lambda: processor.status().queued == 71)
        thread.join(0.2)
        assert (thread.is_alive(), processor.status().queued) == (True, 71)
        end_spans(tracer, 10)
        assert (processor.status().queued, processor.status().dropped) == (81, 0)
        spool.may_go_on.set()
        thread.join(PATIENCE)
        wait_until(lambda: processor.status().spilled == 209)
        assert processor.status().dropped == 0
        delivery.release.set()


@pytest.mark.usefixtures("patient")
def test_the_thread_that_writes_never_waits_for_itself() -> None:
    class EndsSpans(ListSpool):
        def accept(self, spans: Sequence[ReadableSpan]) -> bool:
            if not self.names:
                for _ in range(10):
                    processor.on_end(spans[0])
            return super().accept(spans)

    processor, delivery = full(EndsSpans(), room=4)
    with closing(processor) as tracer:
        end_spans(tracer, 2)
        wait_until(lambda: processor.status().queued == 1)
        status = processor.status()
        assert (status.spilled, status.dropped) == (4, 7)
        delivery.release.set()


def test_spans_that_wait_for_the_disk_are_written_in_few_long_lines() -> None:
    spool = HangingSpool()
    processor, delivery = full(spool, room=100_000)
    with closing(processor) as tracer:
        end_spans(tracer, 10_001)
        spool.may_go_on.set()
        wait_until(lambda: processor.status().spilled == 10_000)
        assert max(spool.sizes) == 512
        # While few spans wait, a write takes few, so that each span is on disk soon.
        assert min(spool.sizes[-3:]) <= 32
        assert len(spool.sizes) < 80
        delivery.release.set()
