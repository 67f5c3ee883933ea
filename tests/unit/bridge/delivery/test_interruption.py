# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A signal handler that raises while a span starts or ends: the program gets every exception, and
every span is counted once."""

from __future__ import annotations

import gc
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dis import opname
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig
from mlflow_bridge._delivery.spool.spool import Spool
from tests.support.fake_delivery import (
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    closing,
    tracer_for,
    wait_until,
)

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")

ROUNDS = 300


class SoftTimeLimit(Exception):
    """As a task queue raises it from its handler."""


class Deadline(TimeoutError):
    """A limit that is an OSError, which telemetry meets in its own work as well."""


@contextmanager
def raising_at(step: int, error: type[BaseException], inside: str) -> Iterator[list[str]]:
    """Raise from a signal handler at one step of the code of a file on this thread.

    A step is a point at which the interpreter looks for signals: a function begins, a call returns,
    or a loop goes on.
    """
    seen, raised = 0, list[str]()
    latest: dict[FrameType, str] = {}

    def handler(_number: int, frame: FrameType | None) -> None:
        at = frame.f_back if frame else None
        raised.append(f"{at.f_code.co_name}:{at.f_lineno}" if at else "")
        raise error

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal seen
        if inside not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            looks = latest.get(frame, "RESUME").startswith(("RESUME", "CALL", "JUMP_BACKWARD"))
            latest[frame] = opname[frame.f_code.co_code[frame.f_lasti]]
            seen += looks
            if looks and seen == step:
                sys.settrace(None)
                signal.raise_signal(signal.SIGUSR1)
        return trace

    before = signal.signal(signal.SIGUSR1, handler)
    sys.settrace(trace)
    try:
        yield raised
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGUSR1, before)


def make_plain(_directory: Path) -> DeliveryProcessor:
    return DeliveryProcessor(FakeDelivery())


def make_full(directory: Path) -> DeliveryProcessor:
    return DeliveryProcessor(HangingDelivery(), max_queue_size=1, spool=Spool(directory))


def make_write_ahead(directory: Path) -> DeliveryProcessor:
    return DeliveryProcessor(FakeDelivery(), spool=Spool(directory, write_ahead=True))


@pytest.mark.parametrize("error", [SoftTimeLimit, Deadline, KeyboardInterrupt])
def test_every_step_of_the_end_of_a_span(error: type[BaseException]) -> None:
    processor = DeliveryProcessor(FakeDelivery())
    step = 0
    with closing(processor) as tracer:
        raised = ["not yet"]
        while raised:
            step += 1
            span = tracer.start_span("span")
            with raising_at(step, error, "mlflow_bridge/_delivery") as raised:
                assert interrupted(span.end, error) == bool(raised)
        assert step > 5
        time.sleep(0.2)  # before the first instruction of on_end(), only a later look can help
        assert processor.force_flush(60_000)
        status = processor.status()
        assert (status.accepted, status.stored) == (step, step)
    assert processor._slots.used == 0


def interrupted(call: Callable[[], object], error: type[BaseException]) -> bool:
    try:
        call()
    except error:
        return True
    return False


def test_every_step_of_the_start_of_a_span() -> None:
    processor = MLflowBatchSpanProcessor(
        MLflowDSPyConfig(tracking_uri="http://127.0.0.1:1", spool=False, exit_timeout_seconds=0.1)
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    try:
        step, raised, spans = 0, ["not yet"], list[Any]()
        while raised:
            step += 1
            with raising_at(step, SoftTimeLimit, "mlflow_bridge/") as raised:
                start = partial(_start_into, spans, tracer)
                assert interrupted(start, SoftTimeLimit) == bool(raised)
        spans[0].end()
        assert step > 5
        status = processor.status()
        # Of a start that was interrupted before the first look of the processor nothing is known.
        assert step - 5 <= status.accepted <= step
        assert len(processor._open) == 0
    finally:
        processor.close()


def _start_into(spans: list[Any], tracer: Tracer) -> None:
    spans.append(tracer.start_span("span"))


@pytest.mark.parametrize("make", [make_plain, make_full, make_write_ahead])
def test_a_timer_that_fires_all_the_time(
    make: Callable[[Path], DeliveryProcessor], tmp_path: Path
) -> None:
    raised = arrived = 0
    where = ""

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal raised, where
        raised += 1
        where = "".join(traceback.format_stack(_frame)[-6:])
        raise Deadline

    processor = make(tmp_path)
    delivery: Any = processor._delivery
    tracer, names, started = tracer_for(processor), count(), list[Any]()
    # The interpreter keeps what a handler raises inside a finalizer, which is not ours.
    gc.disable()
    before = signal.signal(signal.SIGALRM, handler)
    try:
        while arrived < ROUNDS:
            try:
                signal.setitimer(signal.ITIMER_REAL, (1 + arrived % 40) * 0.00002)
                began = time.monotonic()
                while time.monotonic() - began < PATIENCE:
                    started.append(tracer.start_span(str(next(names))))
                    started[-1].end()
                raise AssertionError(f"no exception arrived, {raised} were raised: {where}")
            except Deadline:
                arrived += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert raised == arrived == ROUNDS
    time.sleep(0.2)
    if make is make_full:
        delivery.release.set()
    assert processor.force_flush(60_000)
    status = processor.status()
    assert (status.queued, status.dropped) == (0, 0)
    wait_until(lambda: processor.status().missing == 0)
    ended = {span.name for span in started if span.end_time is not None}
    delivered = Counter(delivery.names)
    assert ended <= set(delivered)
    assert status.accepted == len(delivered)
    processor.close()
    assert processor._slots.used == 0
    # Only redelivery from the disk may send a span twice.
    assert make is not make_plain or max(delivered.values()) == 1


def test_a_mistake_of_telemetry_stays_with_telemetry() -> None:
    processor = DeliveryProcessor(FakeDelivery())
    with closing(processor) as tracer:
        processor._collector.add = lambda _spans: {}.pop("x")  # type: ignore[method-assign]
        tracer.start_span("span").end()
        assert processor.status().dropped == 1
