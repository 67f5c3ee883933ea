# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Destinations that do what a test tells them, and a provider around them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Tracer

from mlflow_bridge._delivery import processor
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Backoff, Outcome, Sent, SpanDelivery

FAST = Backoff(first=0.001, longest=0.01)
"""Retries without waiting, for tests."""

PATIENCE = 120.0
"""Seconds after which a test that waits for another thread fails."""


class DeliveryProcessor(processor.DeliveryProcessor):
    """The processor with sizes and times for tests; the real class has no defaults."""

    def __init__(self, exporter: SpanDelivery, **settings: Any) -> None:
        super().__init__(exporter, **{**_SETTINGS, **settings})


_SETTINGS: dict[str, Any] = {
    "max_queue_size": 20_000,
    "max_queue_bytes": 268_435_456,
    "max_batch_size": 512,
    "schedule_delay_seconds": 1.0,
    "trace_buffer_size": 1_000_000,
    "exit_timeout_seconds": 5.0,
    "block_seconds": 1.0,
    "spool": None,
    "overflow_policy": "spill",
    "max_spill_queue_size": 100_000,
    "max_spill_queue_bytes": 268_435_456,
    "traces": "all",
    "drop_asgi_io_spans": True,
}


class FakeDelivery:
    """A destination that remembers the names of its stored spans, batch by batch.

    ``answers`` are used up first, one for each attempt; an exception among them is raised.
    """

    destination_description = "the fake store"

    def __init__(
        self,
        *answers: Outcome | BaseException | Callable[[Sequence[ReadableSpan]], Outcome],
        seconds: float = 0.0,
    ) -> None:
        self._answers = list(answers)
        self._seconds = seconds
        self.batches: list[list[str]] = []
        self.attempts = 0
        self.warmed_up = threading.Event()
        self.threads: set[str] = set()
        self.closed = 0

    @property
    def names(self) -> list[str]:
        return [name for batch in self.batches for name in batch]

    def warm_up(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.warmed_up.set()

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        self.attempts += 1
        self.threads.add(threading.current_thread().name)
        if self._seconds:
            time.sleep(self._seconds)
        answer = self._answers.pop(0) if self._answers else Sent(len(spans))
        if isinstance(answer, BaseException):
            raise answer
        outcome = answer(spans) if callable(answer) else answer
        if isinstance(outcome, Sent):
            self.batches.append([span.name for span in spans])
        return outcome

    def close(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.closed += 1


class HangingDelivery(FakeDelivery):
    """A destination that sets ``entered``, and answers only after ``release`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.release = threading.Event()

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        self.entered.set()
        self.release.wait(PATIENCE)
        return super().deliver(spans)


class FileDelivery:
    """A destination that appends names of spans to a file, so that other processes see them."""

    destination_description = "the file"

    def __init__(self, path: Path) -> None:
        self._path = path

    def warm_up(self) -> None: ...

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        with self._path.open("a") as file:
            file.write("".join(f"{span.name}\n" for span in spans))
        return Sent(len(spans))

    def close(self) -> None: ...


class ListSpool(Spool):
    """A spool in memory, with room for this many spans, which never delivers them.

    It has no copies of spans that wait elsewhere.
    """

    def __init__(self, room: int = 1_000_000) -> None:
        super().__init__(Path("a directory that is not there"))
        self._room = room
        self.names: list[str] = []

    def accept(self, spans: Sequence[ReadableSpan]) -> bool:
        if len(self.names) + len(spans) > self._room:
            return False
        self.names.extend(span.name for span in spans)
        return True

    def take(self, spans: Sequence[ReadableSpan], *, until: float = math.inf) -> int:
        return len(spans) if self.accept(spans) else 0

    def keep(self, spans: Sequence[ReadableSpan], *, until: float) -> int:
        return self.take(spans)

    def copy_first(self, spans: Sequence[ReadableSpan]) -> int:
        return 0


def tracer_for(processor: DeliveryProcessor) -> Tracer:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider.get_tracer("test")


@contextmanager
def closing(processor: DeliveryProcessor) -> Iterator[Tracer]:
    """A tracer whose spans go to the processor, which is closed in the end."""
    try:
        yield tracer_for(processor)
    finally:
        processor.close(timeout_seconds=1.0)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("the condition did not become true")
        time.sleep(0.002)


def end_spans(tracer: Tracer, count: int, prefix: str = "span") -> list[str]:
    """End this number of spans. Returns their names."""
    names = [f"{prefix} {index}" for index in range(count)]
    for name in names:
        tracer.start_span(name).end()
    return names
