# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The span processor that gives finished traces to the trace processors of a program.

It stands beside the delivery to MLflow, not in its way: both get the same spans from the tracer
provider, and neither waits for the other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import TraceFlags

from mlflow_bridge._config.base import ConfigurationError
from mlflow_bridge._process.interruption import belongs_to_program, complete
from mlflow_bridge._process.lifecycle import watch_process
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.asgi_io import without_asgi_io
from mlflow_bridge._spans.genai import is_of_genai
from mlflow_bridge._spans.open_spans import end_unfinished
from mlflow_bridge._spans.redaction import follow_redaction
from mlflow_bridge.traces.finished import finished_trace
from mlflow_bridge.traces.from_spans import MAX_ATTRIBUTE_BYTES, record_of_spans
from mlflow_bridge.traces.open_traces import EndedTrace, Limits, OpenTraces
from mlflow_bridge.traces.workers import (
    TraceProcessor,
    TraceProcessorStatus,
    Worker,
    is_inside_processor,
)

_logger = logging.getLogger(__name__)

_SAMPLED: Final = TraceFlags.SAMPLED
_MAX_ENDED: Final = 10_000
"""Traces that have ended and wait to be read."""
_MAX_ENDED_BYTES: Final = 67_108_864


@dataclass(frozen=True)
class DispatchSettings:
    """The settings of the delivery that also hold for trace processors."""

    only_genai: bool = True
    """Whether only traces with a span of DSPy or GenAI are given out (``traces``)."""
    drops_asgi_io: bool = True
    """Whether spans of single ASGI messages are left out (``drop_asgi_io_spans``)."""
    max_attribute_bytes: int = MAX_ATTRIBUTE_BYTES
    program_tags: bool = True
    exit_timeout_seconds: float = 5.0


class TraceDispatch(SpanProcessor):
    """Gives each finished trace to functions, on a thread of its own for each function.

    A function that raises or hangs harms neither the program nor the delivery nor other functions.
    What is held is bounded: traces that have not ended (see `Limits`), ended traces, and those that
    wait for a function. `status` counts what a function has missed.

    Threads: ``on_start`` and ``on_end`` are called by any thread of the program. They raise only
    what a signal handler has raised, and do not wait. A thread of this object makes `FinishedTrace`
    objects. It starts with the first trace.

    After a fork, the child has no trace of its parent, counters from zero, and threads of its own.

    Args:
        settings: Returns the settings in use now.
        limits: What is held at most of traces that have not ended.
        clock: Seconds, as from `time.monotonic`.
    """

    def __init__(
        self,
        settings: Callable[[], DispatchSettings] = DispatchSettings,
        *,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._clock = clock
        self._workers: list[Worker] = []
        self._closed = False
        self._log = RateLimitedLogger(_logger)
        self._begin()
        follow_redaction(self)
        watch_process(
            self,
            after_fork=self._after_fork,
            before_exit=self._before_exit,
            before_child_exit=self._before_exit,
        )

    def _begin(self) -> None:
        # Reentrant: a span may end in a garbage collection, in the thread that holds the lock.
        self._changed = threading.Condition(threading.RLock())
        self._open = OpenTraces(self._limits, self._clock)
        self._ended: deque[EndedTrace] = deque()
        self._ended_bytes = 0
        self._taken = self._done = 0
        self._given_up = 0
        self._thread: threading.Thread | None = None

    @property
    def open_traces(self) -> int:
        """Number of traces that are held because they have not ended."""
        return len(self._open)

    def open_trace_ids(self) -> set[int]:
        """The traces that are held because they have not ended."""
        with self._changed:
            return self._open.ids()

    def add(self, function: TraceProcessor) -> None:
        """Give further traces to a function, too; a function that is known stays as it is.

        Raises:
            ConfigurationError: It is not a function, or a coroutine function.
        """
        checked = _checked(function)
        with self._changed:
            if not any(worker.function == checked for worker in self._workers):
                # A new list: other threads may go through the old one.
                self._workers = [*self._workers, Worker(checked)]

    def remove(self, function: TraceProcessor) -> bool:
        """Give no more traces to a function. False if it is not known."""
        with self._changed:
            found = [worker for worker in self._workers if worker.function == function]
            self._workers = [worker for worker in self._workers if worker not in found]
            if not self._workers:
                self._open, self._given_up = OpenTraces(self._limits, self._clock), 0
        for worker in found:
            worker.close()
        return bool(found)

    @property
    def is_used(self) -> bool:
        """Whether there is a function to give traces to."""
        return bool(self._workers)

    def status(self) -> tuple[TraceProcessorStatus, ...]:
        """Counters of each function, in the order in which they were added."""
        return tuple(worker.status() for worker in self._workers)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note a span. Raises only what a signal handler has raised."""
        try:
            context = span.get_span_context()
            if not context.trace_flags & _SAMPLED or not self._workers:
                return
            if is_inside_processor(parent_context):
                return
            with self._changed:
                self._open.started(span, context.trace_id, context.span_id)
                self._count_given_up()
        except BaseException as error:
            if belongs_to_program(error):
                # The program does not get the span, so it cannot end it.
                complete(lambda: end_unfinished(span))
                raise
            _logger.debug("The start of a span could not be noted", exc_info=True)

    def on_end(self, span: ReadableSpan) -> None:
        """Note the end of a span. Raises only what a signal handler has raised."""
        try:
            context = span.context
            if context is None or not self._workers:
                return
            with self._changed:
                had_late = self._open.has_late
                ended = self._open.ended(span, context.trace_id, context.span_id)
                self._count_given_up()
                if ended is not None:
                    self._queue(ended)
                elif self._open.has_late and not had_late:
                    self._wake_up()
        except BaseException as error:
            if belongs_to_program(error):
                raise
            _logger.debug("The end of a span could not be noted", exc_info=True)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing, so that the flush of a tracer provider does not wait for functions."""
        return True

    def shutdown(self) -> None:
        """Do nothing: functions stay for the next tracer provider, until `close`."""

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until every function was given every trace that ended before this call.

        A function that calls this does not wait for itself.

        Args:
            timeout_seconds: Longest wait in seconds.

        Returns:
            False if the time is over before, or a function has missed a trace meanwhile.
        """
        until = time.monotonic() + timeout_seconds
        workers = self._workers
        if not workers:
            return True
        missed = sum(worker.missed for worker in workers)
        with self._changed:
            target = self._taken
            is_read = self._changed.wait_for(
                lambda: self._done >= target, max(until - time.monotonic(), 0.0)
            )
        given = [worker.flush(until) for worker in workers]
        return is_read and all(given) and missed == sum(worker.missed for worker in workers)

    def close(self, timeout_seconds: float) -> None:
        """Give out what has ended, for at most this time, and forget all functions."""
        self.flush(timeout_seconds)
        with self._changed:
            self._closed = True
            workers, self._workers = self._workers, []
            self._changed.notify_all()
        for worker in workers:
            worker.close()

    def _queue(self, ended: EndedTrace) -> None:
        is_full = len(self._ended) >= _MAX_ENDED or (
            bool(self._ended) and self._ended_bytes + ended.size > _MAX_ENDED_BYTES
        )
        if is_full or not self._has_thread():
            self._miss(1)
            return
        self._ended.append(ended)
        self._ended_bytes += ended.size
        self._taken += 1
        self._changed.notify_all()

    def _wake_up(self) -> None:
        """Let the thread look when the next trace is overdue."""
        if self._has_thread():
            self._changed.notify_all()

    def _has_thread(self) -> bool:
        if self._thread is not None:
            return True
        thread = threading.Thread(target=self._run, name="mlflow-bridge-traces", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # The interpreter exits, or the machine has no thread left.
            return False
        self._thread = thread
        return True

    def _count_given_up(self) -> None:
        given_up = self._open.given_up - self._given_up
        if given_up:
            self._given_up += given_up
            self._miss(given_up)

    def _miss(self, traces: int) -> None:
        for worker in self._workers:
            worker.miss(traces)
        self._log.warning(
            "missed",
            "Trace processors miss traces: more traces or spans are open, or end at once, than are "
            "held for them. trace_processor_status() has the number.",
        )

    def _run(self) -> None:
        while (ended := self._next()) is not None:
            try:
                self._give_out(ended)
            except Exception as error:
                self._miss(1)
                self._log.warning(
                    "unreadable", "A trace could not be read for trace processors: %r", error
                )
            finally:
                with self._changed:
                    self._done += 1
                    self._changed.notify_all()

    def _next(self) -> EndedTrace | None:
        """Wait for a trace that has ended; None at the end."""
        with self._changed:
            while not self._closed:
                for late in self._open.overdue():
                    self._queue(late)
                if self._ended:
                    ended = self._ended.popleft()
                    self._ended_bytes -= ended.size
                    return ended
                self._changed.wait(self._open.seconds_to_overdue())
            return None

    def _give_out(self, ended: EndedTrace) -> None:
        settings = self._settings()
        if settings.only_genai and not any(map(is_of_genai, ended.spans)):
            return
        record = record_of_spans(
            without_asgi_io(ended.spans) if settings.drops_asgi_io else ended.spans,
            complete=ended.complete,
            max_attribute_bytes=settings.max_attribute_bytes,
            program_tags=settings.program_tags,
        )
        trace = finished_trace(record)
        for worker in self._workers:
            worker.put(trace, ended.size)

    def _after_fork(self) -> None:
        self._begin()
        for worker in self._workers:
            worker.renew()

    def _before_exit(self) -> None:
        """Give out what has ended when the interpreter exits; the delivery has its own time."""
        self.flush(self._settings().exit_timeout_seconds)


def _checked(function: Any) -> TraceProcessor:
    call = getattr(function, "__call__", None)  # noqa: B004
    if not callable(function) or iscoroutinefunction(function) or iscoroutinefunction(call):
        kind = "a coroutine function" if callable(function) else f"a {type(function).__name__}"
        raise ConfigurationError(
            f"the trace processor is {kind}; accepted: a function with one argument, a "
            "FinishedTrace, which is called on a thread of its own"
        )
    return function
