# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The counters of `status()` while other threads end spans: each snapshot is consistent."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Tracer

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import DeliveryStatus
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    closing,
    tracer_for,
    wait_until,
)

THREADS = 4
SPANS = 400
"""Number of spans that each thread ends."""


@dataclass(frozen=True)
class Snapshot:
    returned_before: int
    """Spans whose end had returned before `status()` was called."""
    status: DeliveryStatus
    begun_after: int
    """Spans whose end had begun when `status()` had returned."""


class Program:
    """Threads that end spans, and a thread that takes snapshots meanwhile."""

    def __init__(self, processor: DeliveryProcessor) -> None:
        self.processor = processor
        self.snapshots: list[Snapshot] = []
        # Appending to a list is atomic.
        self.begun: list[None] = []
        self.returned: list[None] = []
        self._done = threading.Event()
        tracer = tracer_for(processor)
        self.workers = [
            threading.Thread(target=self._end_spans, args=(tracer,)) for _ in range(THREADS)
        ]
        self.watcher = threading.Thread(target=self._watch)

    def _end_spans(self, tracer: Tracer) -> None:
        for number in range(SPANS):
            wanted = {"gen_ai.operation.name": "chat"} if number % 3 else {}
            span = tracer.start_span("span", attributes=wanted)
            self.begun.append(None)
            span.end()
            self.returned.append(None)

    def _watch(self) -> None:
        while not self._done.is_set():
            self.look()

    def look(self) -> None:
        before = len(self.returned)
        status = self.processor.status()
        self.snapshots.append(Snapshot(before, status, len(self.begun)))

    def __enter__(self) -> Program:
        for thread in (self.watcher, *self.workers):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.join(PATIENCE)
        self._done.set()
        self.watcher.join(PATIENCE)
        self.look()


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def refuse_one(spans: Sequence[ReadableSpan]) -> Outcome:
    return Sent(len(spans) - 1)


def failing_now_and_then() -> FakeDelivery:
    store = [lambda spans: Sent(len(spans))] * 3
    failures = [Retry("busy"), RuntimeError("a bug"), Retry("no such experiment", lasting=True)]
    answers = [*store, *failures, refuse_one, *store, Rejected("invalid")]
    return FakeDelivery(*itertools.islice(itertools.cycle(answers), 5_000))


@pytest.mark.parametrize("traces", ["all", "genai"])
@pytest.mark.parametrize("disk", ["spool", "write-ahead", "none"])
@pytest.mark.parametrize("time_to_close", [0.0, 0.1])
def test_the_counters_add_up_at_any_moment(
    tmp_path: Path, traces: Literal["all", "genai"], disk: str, time_to_close: float
) -> None:
    spool = None if disk == "none" else Spool(tmp_path, write_ahead=disk == "write-ahead")
    processor = DeliveryProcessor(
        failing_now_and_then(),
        max_queue_size=40,
        max_batch_size=10,
        schedule_delay_seconds=0.002,
        block_seconds=0.01,
        max_spill_queue_size=40,
        spool=spool,
        backoff=FAST,
        traces=traces,
    )
    with closing(processor), Program(processor) as program:
        wait_until(lambda: len(program.returned) >= THREADS * SPANS // 2)
        # If this thread ended open spans, their ends would return in the other threads before.
        processor.close(timeout_seconds=time_to_close, end_open_spans=False)
    last = 0
    for snapshot in program.snapshots:
        status = snapshot.status
        settled = status.stored + status.rejected + status.filtered
        waiting = status.queued + status.spilled
        assert status.accepted == settled + waiting + status.dropped
        assert snapshot.returned_before <= status.accepted <= snapshot.begun_after
        assert status.accepted >= last
        assert min(status.stored, status.rejected, status.filtered) >= 0
        assert min(status.queued, status.spilled, status.dropped) >= 0, status
        last = status.accepted
    assert last == THREADS * SPANS
