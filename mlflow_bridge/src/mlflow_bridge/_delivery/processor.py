# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The span processor that queues ended spans and has them delivered."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Literal
from weakref import ref

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import TraceFlags

from mlflow_bridge._delivery.admission import Admission, Placing
from mlflow_bridge._delivery.collector import Collector
from mlflow_bridge._delivery.copies import Copying
from mlflow_bridge._delivery.metrics import observe
from mlflow_bridge._delivery.registry import register
from mlflow_bridge._delivery.sender import Sender
from mlflow_bridge._delivery.shutdown import ExitTime, exit_summary, seconds_until
from mlflow_bridge._delivery.slots import SECOND, Slots
from mlflow_bridge._delivery.spill import SpillWriter
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import TIMEOUT, Counters, DeliveryStatus
from mlflow_bridge._delivery.trace_selector import TraceSelector
from mlflow_bridge._export.contract import Backoff, SpanDelivery
from mlflow_bridge._export.lending import Lending
from mlflow_bridge._process.interruption import belongs_to_program, complete
from mlflow_bridge._process.lifecycle import may_be_killed_at_any_time, watch_process
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.annotation import deliver_annotations
from mlflow_bridge._spans.asgi_io import AsgiIo
from mlflow_bridge._spans.genai import is_of_genai
from mlflow_bridge._spans.local_root import note_absent_parent
from mlflow_bridge._spans.open_spans import OpenSpans, end_unfinished
from mlflow_bridge._spans.redaction import follow_redaction

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from mlflow_bridge.sampling.tail import TailSampling

_logger = logging.getLogger(__name__)

_SAMPLED = TraceFlags.SAMPLED
_FLUSH_SECONDS = 30.0
"""How long a flush without a timeout waits; OpenTelemetry's default."""


class DeliveryProcessor(SpanProcessor):
    """A span processor that delivers sampled spans when they have ended, in order, with retries.

    `MLflowBatchSpanProcessor` is this class with all parts made from the settings.

    - A span takes one of ``max_queue_size`` slots before it is queued, and frees the slot when it
      is settled. If no slot is free, `Admission` gives the span to the ``spool``, or its thread
      waits; if neither succeeds, the span is lost, counted and logged. Spans in the spool are
      delivered when the sender has time. If a destination is unavailable for more than
      ``spill_after_seconds``, the spans that wait for it go to the spool as well. So do the spans
      that are left at the end.
    - A `Collector` makes batches. With ``traces="genai"`` it leaves out traces without a DSPy or
      GenAI span; with ``tail`` it leaves out traces that tail sampling does not keep.
    - Only the `Sender` talks to the exporter.
    - Spans that are still open at the end are ended, marked and delivered; see `OpenSpans`.

    Threads: ``on_start`` and ``on_end`` are called by any thread of the program. They raise only
    what a signal handler has raised, and never touch exporter or network. ``on_end`` writes to the
    disk only if every span is to be in the spool before it is sent (``write_ahead``), and after the
    shutdown. ``force_flush`` and ``shutdown`` may be called from any thread and keep to their
    timeouts. The exporter's ``deliver`` and ``close`` are called by the sender's thread only.

    After a fork the child has an empty queue, its own threads and its own counters: every span is
    delivered by the process in which it ended.
    """

    def __init__(
        self,
        exporter: SpanDelivery,
        *,
        max_queue_size: int,
        max_queue_bytes: int,
        max_batch_size: int,
        schedule_delay_seconds: float,
        exit_timeout_seconds: float,
        block_seconds: float,
        spool: Spool | None,
        overflow_policy: Literal["spill", "block"],
        max_spill_queue_size: int,
        max_spill_queue_bytes: int,
        traces: Literal["genai", "all"],
        drop_asgi_io_spans: bool,
        trace_buffer_size: int,
        tail: TailSampling | None = None,
        backoff: Backoff | None = None,
        spill_after_seconds: float = 5.0,
        is_refused: bool = False,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """
        Args:
            exporter: Delivers the spans. From now on, only this processor may use it.
            max_queue_size: The most spans that may wait or be on their way at any time.
            max_queue_bytes: The most bytes of these spans, approximately.
            max_batch_size: The most spans in one write.
            schedule_delay_seconds: The longest that a span waits for its batch to fill.
            exit_timeout_seconds: The longest that shutdown or exit waits for the destination.
            block_seconds: The longest that a thread waits for a slot; 0 never waits.
            spool: Takes the spans for which there is no slot, or no time at exit. From now on, only
                this processor may use it. None keeps all spans in memory.
            overflow_policy: Whether a span without a slot is spilled at once, or only after its
                thread has waited for a slot.
            max_spill_queue_size: The most spans that may wait in memory for the spool.
            max_spill_queue_bytes: The most bytes of these spans, approximately.
            traces: Whether traces without a DSPy or GenAI span are delivered.
            drop_asgi_io_spans: Whether childless spans of single ASGI messages are left out.
            trace_buffer_size: The most ended local roots that wait for a batch to fill.
            tail: Which traces are delivered of those that have ended; None delivers all.
            backoff: How long to wait between attempts.
            spill_after_seconds: How long a destination may be unavailable before the spans that
                wait for it in memory go to the spool.
            is_refused: Whether the exporter refuses every span, for a reason that is in the log.
            meter_provider: Takes the metrics of the processor; the global provider if None.
        """
        self._delivery = exporter
        self._max_queue_size = max_queue_size
        self._max_queue_bytes = max_queue_bytes
        self._max_spill_queue_size = max_spill_queue_size
        self._max_spill_queue_bytes = max_spill_queue_bytes
        self._max_batch_size = min(max_batch_size, max_queue_size)
        self._schedule_delay = schedule_delay_seconds
        self._trace_buffer_size = trace_buffer_size
        self._exit_timeout = exit_timeout_seconds
        self._block_seconds = block_seconds
        self._spool = spool
        self._overflow_policy = overflow_policy
        self._spill_after = spill_after_seconds
        self._backoff = backoff or Backoff()
        self._selector = TraceSelector(tail, only_genai=traces == "genai", spool=spool)
        self._filters = self._selector.selects
        self._drops_asgi_io = drop_asgi_io_spans
        self._exit_deadline: float | None = None
        self._closed = False
        self._complete: bool | None = None
        self._is_refused = is_refused
        lending: object = getattr(exporter, "_lending", None)
        self._lending = lending if isinstance(lending, Lending) else Lending()
        self._lending.is_fed = True
        self._set_up()
        follow_redaction(self)
        deliver_annotations(self, self._take_annotation, self._has_trace)
        self._observed = observe(self, register(self, self._before_exit), meter_provider)
        watch_process(
            self,
            after_fork=self._after_fork,
            before_exit=self._before_exit,
            before_child_exit=self.close,
        )

    def _set_up(self) -> None:
        """Make the parts that belong to one process: counters, slots, locks, threads."""
        self._log = RateLimitedLogger(_logger)
        self._counters = Counters()
        self._slots = Slots(self._max_queue_size, self._max_queue_bytes)
        self._open = OpenSpans()
        # Reentrant: a signal handler may call shutdown() inside shutdown().
        self._closing = threading.RLock()
        self._begun = self._expects_spans = False
        if self._closed:
            # A child of a process that has closed this processor. The spans of the writer are the
            # parent's.
            self._spill = None
        else:
            self._start_threads()
        self._admission = Admission(
            self._collector.add,
            slots=self._slots,
            counters=self._counters,
            log=self._log,
            destination=self._delivery.destination_description,
            spill=self._spill,
            spool=self._spool,
            blocks=self._overflow_policy == "block",
            block_seconds=self._block_seconds,
            sender=self._sender,
            note=self._collector.note,
            filters=self._filters,
        )

    def _start_threads(self) -> None:
        # The threads must not keep a processor alive that the program has dropped.
        this = ref(self)
        traces = self._selector.buffer(
            # The other half of the queue is left for traces that are known to be wanted.
            self._max_queue_size // 2,
            open_traces=self._open.trace_ids,
            counters=self._counters,
            delivers=lambda: (it := this()) and it._sender.wake_up(),
        )
        self._sender = Sender(
            self._delivery,
            self._slots,
            self._counters,
            self._log,
            batch_size=self._max_batch_size,
            backoff=self._backoff,
            spool=self._spool,
            spill_after_seconds=self._spill_after,
            reports_refusals=not self._is_refused,
            undecided=self._selector.undecided_traces(traces),
            details=getattr(self._delivery, "_delivery_of_details", None),
        )
        self._spill = self._spill_writer()
        self._copying = Copying(self._sender.waiting)
        self._collector = Collector(
            self._sender,
            slots=self._slots,
            counters=self._counters,
            log=self._log,
            batch_size=self._max_batch_size,
            delay_seconds=self._schedule_delay,
            most_traces=self._trace_buffer_size,
            traces=traces,
            ended=self._lending.note,
            asgi_io=AsgiIo(self._open.unqueued) if self._drops_asgi_io else None,
            spool=self._spool,
            too_late=lambda span: (it := this()) and it._admission.admit_too_late(span),
            spill=self._spill,
            look=lambda: (it := this()) and it._look_at_destination(),
        )

    def _spill_writer(self) -> SpillWriter | None:
        if self._spool is None:
            return None
        this = ref(self)
        return SpillWriter(
            self._spool,
            slots=self._slots,
            counters=self._counters,
            requeue=lambda span: (it := this()) and it._send(span),
            too_late=lambda span, room: (it := this()) and it._admission.admit_late(span, room),
            capacity=self._max_spill_queue_size,
            max_bytes=self._max_spill_queue_bytes,
            written=self._sender.wake_up,
            gate=lambda once: (it := this()) and it._collector.add_for_disk(once),
        )

    def _look_at_destination(self) -> None:
        """Copy the waiting spans to the disk if MLflow has not taken them for too long.

        The sender cannot, since it waits for MLflow.
        """
        overdue = self._sender.overdue_seconds()
        if overdue:
            self._copy_waiting()
            self._sender.report_silence(overdue)

    def _copy_waiting(self) -> None:
        if self._spill is not None:
            self._spill.copy(self._copying)

    def _send(self, span: ReadableSpan) -> None:
        """Send a span that waited for the disk, and has got a slot of the queue instead."""
        if self._spool is not None and not self._spool.has_written_ahead(span):
            self._spool.write_ahead(span)
        # Not to the collector, which has seen the span and may be closed.
        if not self._sender.put((span,)):
            self._admission.admit_too_late(span)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Register the span, and have the destination opened meanwhile.

        Raises only what a signal handler has raised.
        """
        try:
            context = span.get_span_context()
            if not context.trace_flags & _SAMPLED:
                return
            open_spans, parent = self._open, span.parent
            if parent is not None and parent.span_id not in open_spans.held:
                note_absent_parent(span, parent_context, open_spans)
            open_spans.started(context.span_id, span)
            if not self._expects_spans:
                self._look_at(span)
        except BaseException as error:
            if belongs_to_program(error):
                complete(lambda: end_unfinished(span))
                raise
            _logger.debug("The start of a span could not be recorded", exc_info=True)

    def _look_at(self, span: Span) -> None:
        """Have the destination opened at the start of the first span that is known to be for it.

        Opening MLflow's SQL store imports MLflow, which takes seconds and much memory. A process
        without such a span is not to pay for that. A span may get its first GenAI attribute later;
        the destination is then opened when the span is delivered.
        """
        if not self._begun:
            self._begin()
        if not self._selector.only_genai or is_of_genai(span):
            self._expects_spans = True
            if not self._closed:  # In a child, a thread of the parent may hold the sender's lock.
                self.warm_up()

    def _begin(self) -> None:
        """Prepare delivery at the first span; earlier, a child may not know that it is daemonic."""
        self._begun = True
        if self._closed:
            return
        if self._spool is not None and may_be_killed_at_any_time():
            self._spool.begin_write_ahead()

    def warm_up(self) -> None:
        """Let the sender's thread open the destination now. Returns at once."""
        self._sender.announce()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span if it is sampled. Raises only what a signal handler has raised."""
        claim = placing = None
        try:
            context = span.context
            if context is None:
                return
            # The filter of traces must see the span here until it is in the queue.
            self._open.leaving[id(span)] = span
            # An open span in the register is sampled.
            if self._open.held.pop(context.span_id, None) is None:
                is_new = self._open.ended(context.span_id)
                if not is_new or not context.trace_flags & _SAMPLED:
                    return
            if self._closed:
                self._admission.admit_late(span)
                return
            claim = islice(map(SECOND, self._slots.takes, (span,)), 1)  # Slots.claim, inlined
            if self._spool is not None and self._spool.writes_ahead:
                placing = Placing(span, claim)
                self._admission.place(placing)
                return
            try:
                self._collector.add(claim)
            except IndexError as error:
                claim = None  # at once, for this claim cannot be tried again
                if belongs_to_program(error):
                    raise
                placing = Placing(span)
                self._admission.place(placing)
        except BaseException as error:
            if not belongs_to_program(error):
                kind = type(error).__name__
                self._admission.lose(f"{kind} at the end of the span", kind)
                return
            self._finish_end(span, claim, placing)
            raise
        finally:
            self._open.leaving.pop(id(span), None)

    def _take_annotation(self, annotation: ReadableSpan) -> None:
        """Deliver an annotation behind the spans of its trace; see `Annotation`."""
        # Looked up at each call: the redaction replaces the method of the object.
        self.on_end(annotation)

    def _has_trace(self, trace_id: int) -> bool:
        """Whether this processor is known to deliver a trace."""
        if self._closed:
            return False
        is_wanted = not self._filters or trace_id in self._collector.wanted()
        return is_wanted or trace_id in self.open_trace_ids()

    def _finish_end(
        self,
        span: ReadableSpan,
        claim: Iterator[ReadableSpan] | None,
        placing: Placing | None,
    ) -> None:
        """Do the rest of `on_end`, which a signal handler has interrupted."""
        context = span.get_span_context()
        if context is None or not context.trace_flags & _SAMPLED:
            return
        if placing is None:
            placing = Placing(span, claim or self._slots.claim(span))
        begun = placing
        complete(lambda: self._go_on(begun, context.span_id))

    def _go_on(self, placing: Placing, span_id: int) -> None:
        if not self._open.ended(span_id):
            return
        self._place(placing)

    def _place(self, placing: Placing) -> None:
        if self._closed:
            self._admission.admit_late(placing.span)
        else:
            self._admission.place(placing, may_wait=False)

    def open_trace_ids(self) -> set[int]:
        """The traces that have an open span here."""
        return self._open.trace_ids()

    def _take_over(self, other: DeliveryProcessor) -> None:
        """Take over the open spans and traces of another processor, which is closed next."""
        self._follow(other)
        other._open.move_to(self._open)
        other._collector.successor = self.on_end

    def _follow(self, other: DeliveryProcessor) -> None:
        """Deliver the rest of the traces that another processor delivers."""
        self._collector.want(other._collector.wanted())
        still_open = self._open.trace_ids() | other._open.trace_ids()
        self._collector.refuse([one for one in other._collector.refused() if one in still_open])

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Wait until the spans that ended before this call are stored, or in the spool.

        It does not wait for spans that the filter of traces still holds back (``traces``).

        Args:
            timeout_millis: The longest to wait, in milliseconds; 30,000 if None.

        Returns:
            True only if every span that was still on its way is now stored or on disk.
        """
        if self._closed:
            return bool(self._complete)
        seconds = _FLUSH_SECONDS if timeout_millis is None else timeout_millis / 1000
        return self._flush(time.monotonic() + seconds)

    def _admit_missed(self) -> None:
        """Admit ended spans of which a signal handler has kept `on_end` from hearing."""
        for span in self._open.take_missed():
            self._open.leaving[id(span)] = span
            try:
                self._place(Placing(span, self._slots.claim(span)))
            finally:
                self._open.leaving.pop(id(span), None)

    def _flush(self, deadline: float, *, ending: bool = False) -> bool:
        self._admit_missed()
        lost_before = self._counters.lost_after_admission
        # In the order in which spans pass the three.
        passed_on = self._collector.flush(seconds_until(deadline))
        spilled = self._spill is None or self._spill.flush(seconds_until(deadline))
        if ending and self._spill is not None:
            alone = min(self._time.alone_seconds, seconds_until(deadline))
            if not self._sender.flush(alone, lost_before=lost_before, ending=True):
                self._copy_waiting()
        sent = self._sender.flush(seconds_until(deadline), lost_before=lost_before, ending=ending)
        return spilled and passed_on and sent

    def shutdown(self, timeout_millis: float | None = None) -> None:
        """Deliver the waiting spans, then stop; see `close`.

        Args:
            timeout_millis: The longest to wait, in milliseconds, if that is less than
                ``exit_timeout_seconds``.
        """
        self.close(None if timeout_millis is None else timeout_millis / 1000)

    @property
    def has_ended(self) -> bool:
        """Whether the processor is closed, and delivers nothing any more."""
        return self._complete is not None

    def close(self, timeout_seconds: float | None = None, *, end_open_spans: bool = True) -> bool:
        """Deliver the waiting spans for at most ``exit_timeout_seconds``, then stop. Idempotent.

        Spans that are not delivered in time go to the spool; without a spool they are dropped and
        counted. One line in the log says so.

        Args:
            timeout_seconds: The longest to wait, if that is less than ``exit_timeout_seconds``.
            end_open_spans: Whether open spans are ended and delivered, too. False if the program
                goes on and another processor delivers these spans.

        Returns:
            True if every span that was still on its way is stored or in the spool.
        """
        deadline = self._deadline(timeout_seconds)
        if not self._closing.acquire(timeout=seconds_until(deadline)):
            return False  # Another thread is closing the processor, and needs longer.
        try:
            if not self._closed:
                self._admit_missed()
                if end_open_spans:
                    self._open.finish()
                self._closed = True
                self._complete = self._stop(deadline)
            return bool(self._complete)
        finally:
            self._closing.release()

    def _deadline(self, timeout_seconds: float | None) -> float:
        """Start the exit time; the `time.monotonic` until which spans may be delivered."""
        self._time = ExitTime.within(self._exit_timeout, timeout_seconds)
        return self._time.delivery_until(self._exit_deadline)

    def _stop(self, deadline: float) -> bool:
        self._collector.close(seconds_until(deadline))
        if self._spill is not None:
            # The sender at its end also delivers the spans that this process has spilled.
            self._spill.flush(seconds_until(deadline) / 2)
            if not self._sender.finish(min(self._time.alone_seconds, seconds_until(deadline))):
                self._copy_waiting()
        queued = self._sender.close(seconds_until(deadline))
        # The spool's share ends when planned: a delivery that ended early leaves more time for it.
        until = max(deadline, time.monotonic()) + self._time.spooling_seconds
        spilling = self._spill.close(seconds_until(until) / 2) if self._spill is not None else []
        left = [*queued, *spilling]
        kept = self._spool.keep(left, until=until) if self._spool is not None and left else 0
        with self._counters.lock:
            self._slots.release(queued)
            if self._spill is not None:
                self._spill.room.release(spilling)
            # Slots of threads that are about to queue a span. Each thread corrects the count.
            late = sum(slots.give_back_all() for slots in self._waiting)
            # Spans that the exporter had were the first to be kept.
            submitted = min(self._sender.left_in_flight, len(left))
            kept_of_them = min(kept, submitted)
            self._counters.add(
                spilled=kept_of_them, dropped=submitted - kept_of_them, was_submitted=True
            )
            others = len(left) - submitted
            kept_others = kept - kept_of_them
            self._counters.add(
                spilled=kept_others, dropped=others - kept_others + late, dropped_for=TIMEOUT
            )
        self._selector.close()
        if self._spool is not None:
            self._spool.close()
        self._report_what_is_missing()
        return late == 0 and kept == len(left)

    def _report_what_is_missing(self) -> None:
        spool = self._spool and self._spool.path
        known = self._sender.has_warned or self._is_refused
        line = exit_summary(
            self.status(), spool=spool, known=known, exit_timeout=self._exit_timeout
        )
        if line is not None:
            _logger.warning("%s", line)

    @property
    def _waiting(self) -> tuple[Slots, ...]:
        return (self._slots,) if self._spill is None else (self._slots, self._spill.room)

    @property
    def span_exporter(self) -> SpanDelivery:
        """The exporter, such as an `MLflowSpanExporter`, which only this processor may use."""
        return self._delivery

    def status(self) -> DeliveryStatus:
        """Counters of the spans of this process so far, and of the spool."""
        return self._counters.status(
            self._waiting,
            self._spool.status() if self._spool is not None else None,
            held=self._collector.held,
            destination=self._delivery.destination_description,
            dead_threads=self._dead_threads(),
        )

    def _dead_threads(self) -> tuple[str, ...]:
        """Names of threads that have ended although the processor is open; logs them, too."""
        if self._closed:
            return ()
        parts = (self._sender, self._collector, self._spill)
        threads = [part.thread for part in parts if part is not None]
        dead = tuple(thread.name for thread in threads if not thread.is_alive())
        # Read again: a close() may have ended the threads meanwhile.
        if not dead or self._closed:
            return ()
        for name in dead:
            self._log.warning(
                name, "The thread %s has ended. Its spans go to the spool at the exit.", name
            )
        return dead

    def _after_fork(self) -> None:
        """Set up again in a forked child, before the program goes on."""
        self._exit_deadline = None
        self._lending.forget()
        self._selector.forget_parents()
        if self._spool is not None:
            self._spool.after_fork()
        self._set_up()

    def _before_exit(self) -> None:
        """Deliver the waiting spans when the interpreter exits.

        If all are delivered, the processor stays open, because exit handlers that run later may
        still end spans. The time that is spent here counts towards the limit of a later `shutdown`.
        """
        if self._closed:
            return
        self._open.finish()
        self._exit_deadline = self._deadline(None)
        if not self._flush(self._exit_deadline, ending=True):
            self.close()
