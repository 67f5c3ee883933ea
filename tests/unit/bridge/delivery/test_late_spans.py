# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans that end in other threads while the processor is shut down: kept, and counted as such."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Tracer, set_span_in_context

from mlflow_bridge._delivery import spill
from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Retry
from mlflow_bridge._spans.trace_buffer import TraceBuffer
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
from tests.support.spool_spans import names_on_disk


class SlowWrite:
    """A disk on which one write to the spool waits for ``release``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        append = Segment.append

        def slow(segment: Segment, line: bytes, spans: int) -> None:
            if not self.entered.is_set():
                self.entered.set()
                self.release.wait(PATIENCE)
            append(segment, line, spans)

        monkeypatch.setattr(Segment, "append", slow)


def test_a_span_that_is_written_ahead_during_the_shutdown_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowWrite(monkeypatch)
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, spool=Spool(tmp_path, write_ahead=True))
    with closing(processor) as tracer:
        thread = threading.Thread(target=lambda: tracer.start_span("late").end())
        thread.start()
        assert disk.entered.wait(PATIENCE)
        closer = threading.Thread(target=processor.close)
        closer.start()
        # A span that is not known to be on disk counts as dropped until it is.
        wait_until(lambda: processor.status().dropped == 1)
        disk.release.set()
        thread.join(PATIENCE)
        closer.join(PATIENCE)
    status = processor.status()
    assert (status.accepted, status.dropped, status.queued) == (1, 0, 0)
    assert (status.stored, status.kept) == (0, 1)
    assert (delivery.names, set(names_on_disk(tmp_path))) == ([], {"late"})


@pytest.mark.parametrize("write_ahead", [True, False])
@pytest.mark.parametrize("away", [True, False])
def test_threads_that_end_spans_during_the_shutdown_lose_no_span(
    tmp_path: Path, write_ahead: bool, away: bool
) -> None:
    refusals = [Retry("no such experiment", None, lasting=True)] * 1_000
    delivery = FakeDelivery(*refusals) if away else FakeDelivery()
    processor = DeliveryProcessor(
        delivery,
        spool=Spool(tmp_path, write_ahead=write_ahead),
        max_queue_size=200,
        exit_timeout_seconds=PATIENCE,
    )
    ended: list[str] = []

    def work(tracer: Tracer) -> None:
        for number in range(300):
            tracer.start_span(f"span {number}").end()
            ended.append("")

    with closing(processor) as tracer:
        threads = [threading.Thread(target=work, args=(tracer,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(ended) >= 600)
        processor.close()
        for thread in threads:
            thread.join(PATIENCE)
    status = processor.status()
    assert (status.dropped, status.queued) == (0, 0)
    assert status.stored + status.recovered + status.kept == len(ended) == 1800


def spill_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "mlflow-bridge-spill"}


def test_a_span_that_the_writer_holds_at_a_shutdown_without_time_is_spilled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken, release = threading.Event(), threading.Event()

    class SlowQueue(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            item = super().get(block, timeout)
            taken.set()
            release.wait(PATIENCE)
            return item

    monkeypatch.setattr(spill, "SimpleQueue", SlowQueue)
    delivery, spool = HangingDelivery(), ListSpool()
    processor = DeliveryProcessor(delivery, max_queue_size=1, spool=spool)
    with closing(processor) as tracer:
        names = end_spans(tracer, 2)
        assert taken.wait(PATIENCE)
        processor.close(timeout_seconds=0)
        # A span without a known place counts as dropped until it has one.
        assert (processor.status().dropped, processor.status().queued) == (1, 0)
        release.set()
        wait_until(lambda: processor.status().dropped == 0)
        status = processor.status()
        assert (status.accepted, status.spilled, status.queued) == (2, 2, 0)
        assert sorted(spool.names) == names
        delivery.release.set()


def test_a_shutdown_without_time_leaves_no_thread_of_the_writer_behind() -> None:
    before = spill_threads()
    for _ in range(20):
        processor = DeliveryProcessor(FakeDelivery(), spool=ListSpool())
        processor.close(timeout_seconds=0)
    wait_until(lambda: spill_threads() <= before)


def test_a_span_that_is_filtered_during_a_shutdown_without_time_counts_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, release = threading.Event(), threading.Event()
    add = TraceBuffer.add

    def slow(self: TraceBuffer[None], spans: Sequence[ReadableSpan]) -> Any:
        entered.set()
        release.wait(PATIENCE)
        return add(self, spans)

    monkeypatch.setattr(TraceBuffer, "add", slow)
    delivery, spool = FakeDelivery(), ListSpool()
    processor = DeliveryProcessor(
        delivery, spool=spool, traces="genai", max_batch_size=3, schedule_delay_seconds=3600
    )
    with closing(processor) as tracer:
        root = tracer.start_span("root")
        tracer.start_span("held", set_span_in_context(root)).end()
        tracer.start_span("filtered").end()
        tracer.start_span("wanted", attributes={"gen_ai.operation.name": "chat"}).end()
        assert entered.wait(PATIENCE)
        processor.close(timeout_seconds=0, end_open_spans=False)
        # A span without a known place counts as dropped until it has one.
        assert (processor.status().dropped, processor.status().queued) == (3, 0)
        release.set()
        wait_until(lambda: processor.status().dropped == 0)
        status = processor.status()
    assert (status.accepted, status.filtered, status.spilled, status.queued) == (3, 2, 1, 0)
    assert (spool.names, delivery.names) == (["wanted"], [])


@pytest.mark.parametrize("is_held", [True, False])
def test_a_span_that_a_flush_finds_before_its_thread_reports_it_counts_once(
    monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    class Flushing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            # As another thread would, while this one has no time to go on.
            assert processor.force_flush(PATIENCE * 1000)

    monkeypatch.setattr("mlflow_bridge._spans.open_spans._REPORTED_WITHIN_NANOSECONDS", -(10**9))
    monkeypatch.setattr("mlflow_bridge._spans.open_spans._HELD", 4096 if is_held else 0)
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Flushing())
    provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("span").end()
    assert processor.force_flush(PATIENCE * 1000)
    assert (delivery.names, processor.status().accepted) == (["span"], 1)
    processor.close(timeout_seconds=1.0)
