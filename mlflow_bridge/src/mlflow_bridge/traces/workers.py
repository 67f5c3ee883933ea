# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The threads that call trace processors: one for each processor, so that they do not wait for
each other."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.context import Context, attach, create_key, get_value, set_value
from opentelemetry.instrumentation.utils import suppress_instrumentation

from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge.traces.finished import FinishedTrace

_logger = logging.getLogger(__name__)

TraceProcessor = Callable[[FinishedTrace], object]

_MAX_WAITING: Final = 10_000
_MAX_WAITING_BYTES: Final = 67_108_864
_LONG_SECONDS: Final = 30.0
"""A call that takes longer is reported."""

_INSIDE: Final = create_key("mlflow-bridge-trace-processor")


def is_inside_processor(context: Context | None) -> bool:
    """Whether a trace processor runs in this context, or in the current one."""
    return get_value(_INSIDE) is not None or get_value(_INSIDE, context) is not None


@dataclass(frozen=True)
class TraceProcessorStatus:
    """Counters of one trace processor in this process; a forked child starts from zero."""

    processor: str
    """Qualified name of the function."""
    processed: int
    """Traces that were given to the processor, including those with which it raised."""
    failed: int
    """Traces with which the processor raised."""
    missed: int
    """Traces that the processor did not get, because it was too slow, or too much was open."""
    waiting: int
    """Traces that wait for the processor, or that it looks at now."""


class Worker:
    """The thread and the queue of one trace processor.

    The queue is bounded in traces and bytes. A trace for which it has no room is missed.

    Args:
        function: The processor.
        log: Takes the warnings.
    """

    def __init__(self, function: TraceProcessor, log: RateLimitedLogger | None = None) -> None:
        self.function = function
        self.name = _name_of(function)
        self._log = log or RateLimitedLogger(_logger)
        self._closed = False
        self.renew()

    def renew(self) -> None:
        """Begin with an empty queue: at first, and again in a forked child."""
        # Reentrant: a garbage collection or a signal handler may come in between.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[tuple[FinishedTrace, int]] = deque()
        self._bytes = 0
        self._taken = 0
        self._done = 0
        self._failed = 0
        self._missed = 0
        self._busy_since: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def missed(self) -> int:
        return self._missed

    def status(self) -> TraceProcessorStatus:
        with self._changed:
            return TraceProcessorStatus(
                self.name, self._done, self._failed, self._missed, self._taken - self._done
            )

    def miss(self, traces: int = 1) -> None:
        """Count traces that the processor does not get."""
        with self._changed:
            self._missed += traces

    def put(self, trace: FinishedTrace, size: int) -> None:
        """Queue a trace, or count it as missed. Never waits for the processor."""
        self._report_a_long_call()
        with self._changed:
            has_room = len(self._waiting) < _MAX_WAITING and (
                not self._waiting or self._bytes + size <= _MAX_WAITING_BYTES
            )
            if self._closed or not has_room or not self._has_thread():
                self._missed += 1
            else:
                self._waiting.append((trace, size))
                self._bytes += size
                self._taken += 1
                self._changed.notify_all()
                return
        if not self._closed:
            self._log.warning(
                f"{id(self)} missed",
                "The trace processor %s misses traces, since %d traces wait for it already: it is "
                "slower than the program, or hangs.",
                self.name,
                len(self._waiting),
            )

    def flush(self, until: float) -> bool:
        """Wait until the processor has returned from all traces that wait now.

        Args:
            until: The `time.monotonic` until which to wait.

        Returns:
            False if the time is over before.
        """
        if self._thread is threading.current_thread():
            return True  # The processor itself asks: it would wait for itself.
        with self._changed:
            target = self._taken
            done = self._changed.wait_for(
                lambda: self._done >= target or self._closed,
                max(until - time.monotonic(), 0.0),
            )
        if not done:
            self._report_a_long_call(0.0)
        return done

    def close(self) -> None:
        """End the thread after the call that it makes now, and forget the waiting traces."""
        with self._changed:
            self._closed = True
            self._missed += len(self._waiting)
            self._taken -= len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()

    def _has_thread(self) -> bool:
        if self._thread is not None:
            return True
        thread = threading.Thread(
            target=_run, args=(self,), name="mlflow-bridge-trace-processor", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # The interpreter exits, or the machine has no thread left.
            return False
        self._thread = thread
        return True

    def next_trace(self) -> FinishedTrace | None:
        """Wait for a trace; None if the processor was removed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            trace, size = self._waiting.popleft()
            self._bytes -= size
            self._busy_since = time.monotonic()
            return trace

    def call(self, trace: FinishedTrace) -> None:
        """Give the processor a trace. Never raises."""
        failed = 0
        try:
            self.function(trace)
        except BaseException as error:  # SystemExit would end the thread for good.
            failed = 1
            self._log.warning(
                f"{id(self)} failed",
                "The trace processor %s raised %s for the trace %s. Other processors and the "
                "delivery go on. %s",
                self.name,
                type(error).__name__,
                trace.id,
                _traceback_of(error),
            )
        finally:
            with self._changed:
                self._failed += failed
                self._done += 1
                self._busy_since = None
                self._changed.notify_all()

    def _report_a_long_call(self, seconds: float = _LONG_SECONDS) -> None:
        since = self._busy_since
        if since is not None and (busy := time.monotonic() - since) > seconds:
            self._log.warning(
                f"{id(self)} long",
                "The trace processor %s has looked at one trace for %.1f seconds; further traces "
                "wait for it.",
                self.name,
                busy,
            )


def _run(worker: Worker) -> None:
    attach(set_value(_INSIDE, True))
    # The calls of a processor make no traces, or the processor would get traces of itself for ever.
    with suppress_instrumentation():
        while (trace := worker.next_trace()) is not None:
            worker.call(trace)
            trace = None


def _traceback_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return ""


def _name_of(function: Any) -> str:
    name: object = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{getattr(function, '__module__', None) or '?'}.{name}"
