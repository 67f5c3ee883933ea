# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The batch processor: from a span's end to the sender, without losing one on the way."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from mlflow_bridge.processing.backoff import Backoff
from mlflow_bridge.processing.notices import Notices
from mlflow_bridge.processing.overflow import Overflow
from mlflow_bridge.processing.process_end import may_be_killed_at_any_time, watch_process
from mlflow_bridge.processing.sender import Sender
from mlflow_bridge.processing.slots import Slots
from mlflow_bridge.processing.span_delivery import SpanDelivery
from mlflow_bridge.processing.status import Counters, DeliveryStatus
from mlflow_bridge.spool.spool import Spool

if TYPE_CHECKING:
    from mlflow_bridge.config import MLflowDSPyConfig

_logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 30.0
"""How long a flush without a time-out of its own waits; OpenTelemetry's default."""

_DELIVERY_SHARE = 0.9
"""The share of the time at exit that delivery gets; the rest is for giving up in good order."""

_SPOOLING_SECONDS = 0.00006
"""About the time that it takes to write one span to the spool."""

_SHORTEST_SPOOLING_SECONDS = 0.25
"""Time for the spool that even a shutdown without any time grants."""


class MLflowBatchSpanProcessor(BatchSpanProcessor):
    """Batches sampled spans that ended and has them delivered, with retries, in order.

    The base class collects spans into batches. Two things are different around it:

    - A span takes one of ``max_queue_size`` slots before the base class gets it, and the slot comes
      back when the span is settled. So the base class, which drops at its limit, never reaches it.
      Where no slot is free the span goes to the ``overflow``. Without one the thread waits for a
      slot for at most ``block_seconds``, unless it runs an asyncio event loop; what finds no slot
      then is lost, counted and logged. With a `Spool` as the overflow, spans are on disk then, and
      are delivered from there when the destination has time; so is what waits while a destination
      is away for more than ``spill_after_seconds``, and what is left at shutdown.
    - The base class hands its batches to a `Sender`, which alone talks to the exporter.

    Threads: ``on_start`` and ``on_end`` are called by any thread of the program; they never raise
    and never touch exporter or network. ``on_end`` writes to the disk only where there is no slot,
    or where the spool is to have every span before it is sent (``write_ahead``). ``force_flush``
    and ``shutdown`` may be called from any thread and keep to their time-outs. The exporter's
    ``deliver`` and ``close`` are called by the sender's thread only.

    After a fork the child has an empty queue, its own sender and its own counters: every span is
    delivered by the process in which it ended.
    """

    def __init__(
        self,
        exporter: SpanDelivery,
        *,
        max_queue_size: int = 20_000,
        max_batch_size: int = 512,
        schedule_delay_seconds: float = 1.0,
        exit_timeout_seconds: float = 5.0,
        block_seconds: float = 1.0,
        overflow: Overflow | None = None,
        backoff: Backoff | None = None,
        spill_after_seconds: float = 5.0,
    ) -> None:
        """
        Args:
            exporter: Where the spans go; from now on this processor's alone.
            max_queue_size: Spans that may wait or be on their way at any time.
            max_batch_size: The most spans in one write.
            schedule_delay_seconds: The longest that a span waits for its batch to fill.
            exit_timeout_seconds: The longest that shutdown or exit waits for the destination.
            block_seconds: The longest that a thread waits for a slot; 0 never waits.
            overflow: Takes the spans for which there is no slot, or no time at exit. A `Spool`
                belongs to this processor alone from now on, and is delivered from.
            backoff: How long to wait between attempts.
            spill_after_seconds: How long a destination may be away before what waits for it in
                memory goes to the spool.

        Raises:
            ValueError: If a size or the schedule delay is not positive.
        """
        self._delivery = exporter
        self._max_queue_size = max_queue_size
        self._max_batch_size = min(max_batch_size, max_queue_size)
        self._exit_timeout = exit_timeout_seconds
        self._block_seconds = block_seconds
        self._overflow = overflow
        self._spool = overflow if isinstance(overflow, Spool) else None
        self._spill_after = spill_after_seconds
        self._spooling_seconds = 0.0
        self._backoff = backoff or Backoff()
        self._exit_deadline: float | None = None
        self._closed = False
        self._complete = False
        self._handover = _Handover()
        super().__init__(
            self._handover,
            max_queue_size=max_queue_size,
            schedule_delay_millis=schedule_delay_seconds * 1000,
            max_export_batch_size=self._max_batch_size,
        )
        self._set_up()
        # After the base class has registered its own: in a child, its queue is emptied first.
        watch_process(self)

    @classmethod
    def from_config(
        cls, exporter: SpanDelivery, config: MLflowDSPyConfig
    ) -> MLflowBatchSpanProcessor:
        """A processor with the sizes, the times and the spool of the configuration."""
        return cls(
            exporter,
            max_queue_size=config.max_queue_size,
            max_batch_size=config.max_batch_size,
            schedule_delay_seconds=config.schedule_delay_seconds,
            exit_timeout_seconds=config.exit_timeout_seconds,
            overflow=Spool.from_config(config),
        )

    def _set_up(self) -> None:
        """Make all that belongs to one process: counters, slots, locks, sender."""
        self._notices = Notices(_logger)
        self._counters = Counters()
        self._slots = Slots(self._max_queue_size)
        # Reentrant for a signal handler that shuts down what it interrupted in shutting down.
        self._closing = threading.RLock()
        self._begun = False
        if self._closed:
            return
        self._sender = Sender(
            self._delivery,
            self._slots,
            self._counters,
            self._notices,
            batch_size=self._max_batch_size,
            backoff=self._backoff,
            spool=self._spool,
            spill_after_seconds=self._spill_after,
        )
        self._handover.sender = self._sender

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Have the destination opened while the first span is still under way. Never raises."""
        if not self._begun and span.get_span_context().trace_flags.sampled:
            self._begin()

    def _begin(self) -> None:
        """What is done at the first span, and not where it would be known only later."""
        self._begun = True
        if self._spool is not None and may_be_killed_at_any_time():
            self._spool.begin_write_ahead()
        self.warm_up()

    def warm_up(self) -> None:
        """Have the destination opened by the sender's thread, now; returns at once."""
        self._sender.announce()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span if it is sampled. Never raises."""
        try:
            context = span.context
            if context is None or not context.trace_flags.sampled:
                return
            if self._closed or not self._slots.try_take():
                self._admit_in_need(span)
            else:
                self._queue(span)
        except Exception as error:
            self._lose(f"{type(error).__name__} at the end of the span")

    def _queue(self, span: ReadableSpan) -> None:
        """Give a span that has a slot to the base class."""
        try:
            if self._spool is not None:
                self._spool.write_ahead(span)
            super().on_end(span)
        except BaseException:
            self._slots.give_back(1)
            raise

    def _admit_in_need(self, span: ReadableSpan) -> None:
        """Find a place for a span when there is no free slot, or no queue any more."""
        if self._overflow is not None and self._overflow.accept((span,)):
            self._counters.not_admitted(spilled=True)
        elif self._closed:
            self._lose("it ended after the shutdown of the tracer provider")
        elif self._may_wait() and self._slots.take_within(self._block_seconds):
            self._queue(span)
        else:
            self._lose(f"{self._max_queue_size} spans wait already (setting: max_queue_size)")

    def _may_wait(self) -> bool:
        if self._block_seconds <= 0 or self._sender.is_current_thread:
            return False
        # Where asyncio was never imported no loop can run, and importing it takes a while.
        asyncio = sys.modules.get("asyncio")
        if asyncio is None:
            return True
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return True
        return False

    def _lose(self, reason: str) -> None:
        self._counters.not_admitted(spilled=False)
        self._counters.error(reason)
        self._notices.warn(
            "lost",
            "A span was lost on its way to %s: %s.",
            self._delivery.destination_description,
            reason,
        )

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Wait until the spans that ended before this call are stored, or in the spool.

        Args:
            timeout_millis: The longest to wait, in milliseconds; 30,000 if None.

        Returns:
            True only if every span that was still on its way is stored now, or on disk.
        """
        if self._closed:
            return self._complete
        seconds = _FLUSH_SECONDS if timeout_millis is None else timeout_millis / 1000
        # Only moves spans over to the sender, so it returns at once.
        super().force_flush()
        return self._sender.flush(max(seconds, 0.0))

    def shutdown(self, timeout_millis: float | None = None) -> None:
        """Deliver what waits, then stop; see `close`.

        Args:
            timeout_millis: The longest to wait, in milliseconds, if that is less than
                ``exit_timeout_seconds``.
        """
        self.close(None if timeout_millis is None else timeout_millis / 1000)

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Deliver what waits for at most ``exit_timeout_seconds``, then stop. Idempotent.

        What is not delivered in time goes to the overflow; without one it is lost, and counted.
        One line in the log says so.

        Returns:
            True if every span that was still on its way is stored or with the overflow.
        """
        deadline = self._deadline(timeout_seconds)
        if not self._closing.acquire(timeout=max(deadline - time.monotonic(), 0.0)):
            return False  # Another thread is at it and takes its time.
        try:
            if not self._closed:
                self._closed = True
                self._complete = self._stop(deadline)
            return self._complete
        finally:
            self._closing.release()

    def _deadline(self, timeout_seconds: float | None) -> float:
        allowed = self._exit_timeout
        if timeout_seconds is not None:
            allowed = min(allowed, timeout_seconds)
        self._spooling_seconds = self._time_for_spooling(allowed)
        deadline = time.monotonic() + allowed * _DELIVERY_SHARE
        if self._spool is not None:
            deadline = time.monotonic() + max(allowed - self._spooling_seconds, 0.0)
        return deadline if self._exit_deadline is None else min(deadline, self._exit_deadline)

    def _time_for_spooling(self, allowed: float) -> float:
        usual = allowed * (1 - _DELIVERY_SHARE) + self._slots.used * _SPOOLING_SECONDS
        return max(min(usual, allowed / 2), _SHORTEST_SPOOLING_SECONDS)

    def _stop(self, deadline: float) -> bool:
        # Drained here first, so that the base class has nothing left that could keep it waiting.
        super().force_flush()
        super().shutdown()
        left = self._sender.close(deadline - time.monotonic())
        kept = self._keep(left, deadline)
        # A span whose on_end overlapped with this call was dropped by the base class.
        late = self._slots.used
        self._slots.give_back(late)
        self._counters.given_up(kept, spilled=True)
        self._counters.given_up(len(left) - kept + late, spilled=False)
        self._report_what_is_missing()
        if self._spool is not None:
            self._spool.close()
        return late == 0 and kept == len(left)

    def _keep(self, left: Sequence[ReadableSpan], deadline: float) -> int:
        """Have the overflow take what is left; how many it took."""
        if not left or self._overflow is None:
            return 0
        if self._spool is None:
            return len(left) if self._overflow.accept(left) else 0
        # The time for this begins when it was planned to; a delivery that ended early leaves more.
        return self._spool.keep(
            left, until=max(deadline, time.monotonic()) + self._spooling_seconds
        )

    def _report_what_is_missing(self) -> None:
        status = self.status()
        if status.missing == 0:
            return
        reason = "the warnings before this one say why"
        if not self._sender.has_warned:
            reason = (
                f"last error: {status.last_error or 'not delivered in time'} "
                f"(settings: MLFLOW_TRACKING_URI, exit_timeout_seconds={self._exit_timeout:g})"
            )
        _logger.warning(
            "%d of %d spans are not in %s: %d lost, %d refused, %d kept %s; %s.",
            status.missing,
            status.missing + status.stored + status.recovered,
            self._delivery.destination_description,
            status.missing - status.rejected - status.kept,
            status.rejected,
            status.kept,
            self._where_spans_are_kept,
            reason,
        )

    @property
    def _where_spans_are_kept(self) -> str:
        if self._spool is None:
            return "for later"
        return f"in {self._spool.path}, delivered by the next process"

    def status(self) -> DeliveryStatus:
        """What became of the spans of this process so far, and what is in the spool."""
        spool = self._spool.status() if self._spool is not None else None
        return self._counters.status(self._slots.used, spool)

    def after_fork(self) -> None:
        """Start anew in a forked child. Called by the interpreter."""
        self._exit_deadline = None
        if self._spool is not None:
            self._spool.after_fork()
        self._set_up()

    def before_exit(self) -> None:
        """Deliver what waits. Called by the interpreter.

        If that works the processor stays open, since handlers that run later may still end spans.
        The time that is spent here is taken from what a later `shutdown` may use.
        """
        if self._closed:
            return
        self._exit_deadline = self._deadline(None)
        super().force_flush()
        if not self._sender.flush(self._exit_deadline - time.monotonic(), ending=True):
            self.close()

    def before_child_exit(self) -> None:
        """Deliver what waits, and stop. Called at the end of a multiprocessing child."""
        self.close()


class _Handover(SpanExporter):
    """What the base class takes for its exporter: passes batches on to the sender, at once."""

    sender: Sender

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.sender.put(spans)
        return SpanExportResult.SUCCESS
