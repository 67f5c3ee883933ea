# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The memory of waiting spans is bounded in bytes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Tracer

from mlflow_bridge._delivery.slots import Slots
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import Counters
from mlflow_bridge._spans.span_size import size_of
from tests.support.fake_delivery import (
    PATIENCE,
    DeliveryProcessor,
    HangingDelivery,
    ListSpool,
    closing,
    wait_until,
)
from tests.support.spool_spans import span_with

MEBIBYTE = 1_048_576
SMALL: dict[str, Any] = {
    "schedule_delay_seconds": 0.005,
    "max_queue_size": 1000,
    "max_queue_bytes": MEBIBYTE,
    "max_batch_size": 4,
}


def end_large(tracer: Tracer, name: str, size: int = 200_000) -> None:
    tracer.start_span(name, attributes={"prompt": "x" * size}).end()


@pytest.mark.parametrize("traces", ["genai", "all"])
def test_large_spans_beyond_the_limit_are_spilled(tmp_path: Path, traces: str) -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, spool=Spool(tmp_path), traces=traces, **SMALL)
    with closing(processor) as tracer:
        for number in range(40):
            with tracer.start_as_current_span(
                f"chat {number}", attributes={"gen_ai.operation.name": "chat", "p": "x" * 200_000}
            ):
                pass
            # The thread that makes batches weighs the span.
            wait_until(lambda: not processor._collector._queue)
        # Of 40 spans, five fit; some more end before the thread has weighed those.
        wait_until(lambda: processor.status().spilled >= 20)
        assert processor.status().dropped == 0
        delivery.release.set()
        wait_until(lambda: len(delivery.names) == 40)
        assert processor.force_flush(PATIENCE * 1000)
        wait_until(lambda: processor.status().missing == 0)
        assert (processor._slots.used, processor._slots.reserved) == (0, 0)


def test_spans_that_wait_for_the_disk_are_bounded_in_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    free = threading.Event()

    class HangingSpool(ListSpool):
        def accept(self, spans: Sequence[ReadableSpan]) -> bool:
            free.wait(PATIENCE)
            return super().accept(spans)

    delivery, spool = HangingDelivery(), HangingSpool()
    processor = DeliveryProcessor(
        delivery,
        spool=spool,
        block_seconds=0.0,
        max_spill_queue_bytes=MEBIBYTE,
        **(SMALL | {"max_queue_size": 1}),
    )
    with closing(processor) as tracer, caplog.at_level(logging.WARNING):
        for number in range(20):
            end_large(tracer, f"span {number}")
        status = processor.status()
        assert status.dropped >= 10
        assert status.queued <= 8
        assert "large spans (setting: max_spill_queue_bytes) for the disk" in caplog.text
        free.set()
        delivery.release.set()
        assert processor.force_flush(PATIENCE * 1000)
        assert processor._spill is not None
        assert (processor._spill.room.used, processor._spill.room.reserved) == (0, 0)


def test_without_a_spool_the_log_names_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, block_seconds=0.0, **SMALL)
    with closing(processor) as tracer, caplog.at_level(logging.WARNING):
        for number in range(20):
            end_large(tracer, f"span {number}")
            wait_until(lambda: not processor._collector._queue)
        assert processor.status().dropped > 0
        assert "large spans (setting: max_queue_bytes) wait already" in caplog.text
        delivery.release.set()


def test_a_span_larger_than_the_limit_is_delivered_alone() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, block_seconds=PATIENCE, **SMALL)
    with closing(processor) as tracer:
        delivery.release.set()
        for number in range(3):
            end_large(tracer, f"span {number}", 3 * MEBIBYTE)
        assert processor.force_flush(PATIENCE * 1000)
        assert delivery.names == ["span 0", "span 1", "span 2"]


def test_large_spans_reserve_further_slots() -> None:
    counters, slots = Counters(), Slots(10, 10 * 100_000)
    small, large = span_with({"a": "x"}), span_with({"a": "x" * 350_000}, span_id=8)
    assert [slots.extra_of(small), slots.extra_of(large)] == [0, 3]
    for _ in range(2):
        assert slots.try_take()
    counters.weigh(slots, (small, large))
    assert (slots.used, slots.reserved) == (2, 3)
    assert sum(slots.try_take() for _ in range(10)) == 5
    # What is not free is reserved when it is given back.
    counters.weigh(slots, (large,))
    assert (slots.used, slots.reserved) == (7, 3)
    counters.settle(slots, (small,), stored=1)
    assert (slots.used, slots.reserved) == (6, 4)
    assert not slots.try_take()
    counters.settle(slots, (large,), stored=1)
    assert (slots.used, slots.reserved) == (5, 0)
    assert slots.try_take()


def test_the_size_of_a_span_is_that_of_its_values() -> None:
    base = size_of(span_with({}))
    text = "x" * 10_000
    assert size_of(span_with({"a": text})) == pytest.approx(base + 10_000, abs=200)
    assert size_of(span_with({"a": (text, text)})) == pytest.approx(base + 20_000, abs=400)
    assert size_of(span_with({"a": "ü€" * 5_000})) == pytest.approx(base + 20_000, abs=200)
    assert size_of(span_with({"a": 1, "b": 2.5, "c": True})) == pytest.approx(base, abs=200)
