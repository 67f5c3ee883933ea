# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The thread that ends a span neither touches a file nor waits for a thread that does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.trace import Tracer

from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool
from tests.support.fake_delivery import (
    PATIENCE,
    DeliveryProcessor,
    HangingDelivery,
    closing,
    wait_until,
)

SPANS = 500


class SlowDisk:
    """A disk on which every operation of the spool waits for ``released``, and is recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.released = threading.Event()
        self.entered = threading.Event()
        self.threads: set[str] = set()
        self._create, self._append = Segment.create, Segment.append
        monkeypatch.setattr(Segment, "create", self.create)

        def append(segment: Segment, line: bytes, spans: int) -> None:
            self.append(segment, line, spans)

        monkeypatch.setattr(Segment, "append", append)

    def _wait(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.released.wait(PATIENCE)

    def create(self, directory: Path, *, undecided: bool = False) -> Segment:
        self._wait()
        return self._create(directory, undecided=undecided)

    def append(self, segment: Segment, line: bytes, spans: int) -> None:
        self._wait()
        self._append(segment, line, spans)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


@contextmanager
def stuck(tmp_path: Path, disk: SlowDisk) -> Iterator[tuple[Tracer, DeliveryProcessor]]:
    """A processor whose destination hangs, and whose queue has no room."""
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, max_queue_size=2, spool=Spool(tmp_path))
    with closing(processor) as tracer:
        yield tracer, processor
        disk.released.set()
        wait_until(lambda: processor.status().spilled == SPANS - 2)
        delivery.release.set()
        assert processor.force_flush(60_000)
    assert disk.threads == {"mlflow-bridge-spill"}


def test_a_disk_that_hangs_does_not_hold_up_the_thread_that_ends_spans(
    tmp_path: Path, disk: SlowDisk
) -> None:
    with stuck(tmp_path, disk) as (tracer, processor):
        for index in range(SPANS):
            tracer.start_span(f"span {index}").end()
        assert disk.entered.wait(PATIENCE)
        # The writer is in the middle of a write now, and holds all locks of a write.
        assert processor.status().queued == SPANS
        assert processor.status().spilled == 0


def test_a_disk_that_hangs_does_not_hold_up_an_event_loop(tmp_path: Path, disk: SlowDisk) -> None:
    async def main(tracer: Tracer) -> None:
        for index in range(SPANS):
            tracer.start_span(f"span {index}").end()
            await asyncio.sleep(0)

    with stuck(tmp_path, disk) as (tracer, processor):
        asyncio.run(main(tracer))
        assert disk.entered.wait(PATIENCE)
        assert processor.status().queued == SPANS


def test_with_write_ahead_the_thread_that_ends_a_span_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    disk.released.set()
    delivery = HangingDelivery()
    processor = DeliveryProcessor(
        delivery, max_queue_size=2, spool=Spool(tmp_path, write_ahead=True)
    )
    with closing(processor) as tracer:
        for index in range(5):
            tracer.start_span(f"span {index}").end()
        assert disk.threads == {threading.current_thread().name}
        assert processor.status().spilled == 3
        delivery.release.set()


def test_with_write_ahead_and_no_disk_spans_wait_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    delivery = HangingDelivery()
    spool = Spool(tmp_path / "file", write_ahead=True)
    processor = DeliveryProcessor(delivery, max_queue_size=2, spool=spool)
    with closing(processor) as tracer:
        for index in range(SPANS):
            tracer.start_span(f"span {index}").end()
        assert (processor.status().queued, processor.status().dropped) == (SPANS, 0)
        delivery.release.set()
        assert processor.force_flush(60_000)
        assert set(delivery.names) == {f"span {index}" for index in range(SPANS)}
