# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The numbers of the last log line are those of the spans on disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import DeliveryStatus
from mlflow_bridge._export.contract import Outcome, Retry
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    closing,
    wait_until,
)
from tests.support.spool_spans import names_on_disk

SMALL = 200_000
"""Bytes of a spool that drops files all the time."""


def ended_in_a_full_spool(
    path: Path, *, threads: int, after_close: int = 0, **options: Any
) -> DeliveryStatus:
    """End 2000 spans, close the processor, and wait until its threads have ended."""

    class Down(FakeDelivery):
        def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
            return Retry("down")

    processor = DeliveryProcessor(
        Down(),
        spool=Spool(path, max_bytes=SMALL, segment_bytes=20_000),
        backoff=FAST,
        max_queue_size=100,
        schedule_delay_seconds=0.01,
        spill_after_seconds=0.01,
        **options,
    )
    with closing(processor) as tracer:

        def work(first: int, count: int) -> None:
            for number in range(first, first + count):
                tracer.start_span(f"span {number}", attributes={"a": "x" * 300}).end()

        share = 2000 // threads
        workers = [threading.Thread(target=work, args=(share * n, share)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
        processor.close()
        work(2000, after_close)
        parts = (processor._sender, processor._collector, processor._spill)
        wait_until(lambda: not any(part and part.thread.is_alive() for part in parts))
        return processor.status()


@pytest.mark.parametrize("exit_timeout_seconds", [0.0, 0.5])
@pytest.mark.parametrize("after_close", [0, 1000])
def test_no_span_that_is_gone_is_called_kept(
    tmp_path: Path, exit_timeout_seconds: float, after_close: int
) -> None:
    status = ended_in_a_full_spool(
        tmp_path,
        threads=4,
        after_close=after_close,
        exit_timeout_seconds=exit_timeout_seconds,
    )
    assert status.accepted == 2000 + after_close
    assert status.spool_dropped > 0
    assert status.kept <= len(names_on_disk(tmp_path))
    assert status.missing - status.rejected - status.kept >= 0


def test_a_delivery_that_begins_again_counts_no_span_twice(tmp_path: Path) -> None:
    class Breaking(FakeDelivery):
        """Takes a batch of each file, and then fails in a way that makes the file begin again."""

        breaks = True

        def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
            if self.breaks and self.attempts % 2:
                self.attempts += 1
                return Retry("refused", refused=True)
            return super().deliver(spans)

    delivery = Breaking()
    processor = DeliveryProcessor(
        delivery,
        spool=Spool(tmp_path),
        backoff=FAST,
        max_batch_size=3,
        max_queue_size=2,
        schedule_delay_seconds=0.01,
    )
    with closing(processor) as tracer:
        for number in range(30):
            tracer.start_span(f"span {number}").end()
        wait_until(lambda: delivery.attempts > 10)
        status = processor.status()
        assert status.recovered <= status.spilled
        assert status.missing >= 0
        delivery.breaks = False
        wait_until(lambda: set(delivery.names) == {f"span {number}" for number in range(30)})
        wait_until(lambda: processor.status().missing == 0)
        status = processor.status()
        assert status.recovered == status.spilled
