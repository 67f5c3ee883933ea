# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The only thread that talks to the destination: it delivers spans in order, with retries."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from traceback import format_exception_only

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.last_details import LastDetails
from mlflow_bridge._delivery.slots import FlushMark, Slots
from mlflow_bridge._delivery.spool.redelivery import Redelivery
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.spool.undecided import UndecidedTraces
from mlflow_bridge._delivery.status import Counters
from mlflow_bridge._export.contract import (
    Backoff,
    DetailsWriter,
    Rejected,
    Retry,
    Sent,
    SpanDelivery,
)
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger

_logger = logging.getLogger(__name__)

_MAX_CRASHES = 3
"""Attempts at a batch in which the exporter may raise instead of returning an outcome."""

_MOST_BATCHES = 4
"""Batches that are sent together if the first is refused and there is no spool."""

_RECOVERY_SECONDS = 0.05
"""Pause after an error outside of the exporter."""

_DETAILS_PAUSE_SECONDS = 5.0
"""Pause after metadata of a trace could not be written."""


class Sender:
    """A daemon thread that delivers spans, one batch after the other.

    ``announce``, ``put``, ``flush`` and ``close`` may be called from any thread; none of them waits
    longer than its time limit. A batch that meets a `Retry` stays at the head of the queue until it
    is settled. This keeps the order, and the slots bound the memory while a destination is
    unavailable. With a spool, all waiting spans are spilled once the destination has been
    unavailable for ``spill_after_seconds``. Spans in the spool are delivered when the thread has
    nothing else to do.

    A sender does not survive a fork. The child makes a new sender; the spans that wait here belong
    to the parent.
    """

    def __init__(
        self,
        delivery: SpanDelivery,
        slots: Slots,
        counters: Counters,
        log: RateLimitedLogger,
        *,
        batch_size: int,
        backoff: Backoff,
        spool: Spool | None = None,
        spill_after_seconds: float = 5.0,
        reports_refusals: bool = True,
        undecided: UndecidedTraces | None = None,
        details: DetailsWriter | None = None,
    ) -> None:
        self._delivery = delivery
        self._details = details
        self._details_at = 0.0
        self._slots = slots
        self._counters = counters
        self._log = log
        self._batch_size = batch_size
        self._backoff = backoff
        self._spool = spool
        self._last = LastDetails(details, spool)
        self._spill_after = spill_after_seconds
        self._reports_refusals = reports_refusals
        self._redelivery = spool and Redelivery(
            spool, delivery.deliver, batch_size=batch_size, backoff=backoff, undecided=undecided
        )
        # Guards the fields below, and is notified when any of them changes.
        # The lock is entered by itself: Condition.__enter__() is written in Python, and a signal
        # handler that raises there would leave the lock held.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue: deque[ReadableSpan | FlushMark] = deque()
        self._in_flight: Sequence[ReadableSpan] = ()
        # Until when no attempt is made, after all was spilled; and whether the server asked for
        # that.
        self._resume_at = 0.0
        self._resume_requested = False
        self._announced = False
        self._hurry = False
        self._ending = False
        self._closing = False
        self._given_up = False
        self._left: list[ReadableSpan] = []
        self.left_in_flight = 0
        """How many of the spans that `close` returned the exporter has had."""
        self._closed_complete = False
        # Written by the sender's thread only.
        self._has_begun = False
        self._asking_since: float | None = None
        """Since when the destination is being asked; None if it is not."""
        self._last_reason = ""
        self._errors = 0
        self._submitted_before = 0
        """How many of the next spans the exporter has had, before an error of this thread."""
        self._failures = 0
        self._failing_since = 0.0
        self._outage_reported = False
        self._has_warned = False
        self._thread = threading.Thread(target=self._run, name="mlflow-bridge-sender", daemon=True)
        # Started at once: from Python 3.12 on no thread can be started while the interpreter exits,
        # and a short program has its first batch only then.
        self._thread.start()

    @property
    def thread(self) -> threading.Thread:
        """The thread that sends."""
        return self._thread

    @property
    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def announce(self) -> None:
        """Announce spans, so that the destination is opened before the first batch.

        Creating MLflow's tables in a new store takes seconds. A program that ends soon after its
        first trace has no time left for that.
        """
        with self._lock:
            self._announced = True
            self._changed.notify_all()

    def waiting(self) -> list[ReadableSpan]:
        """The spans that wait or are being sent, in order; after `close`, what it returned."""
        with self._lock:
            return self._left if self._given_up else self._waiting_spans()

    def overdue_seconds(self) -> float:
        """For how long MLflow has not taken the waiting spans; 0 if that is not too long yet."""
        now = time.monotonic()
        since = [] if self._asking_since is None else [self._asking_since]
        if self._failures:
            since.append(self._failing_since)
        seconds = now - min(since, default=now)
        if seconds < self._spill_after or not self.waiting():
            return 0.0
        return seconds

    def report_silence(self, seconds: float) -> None:
        """Log that MLflow has not taken the waiting spans for this long, once for each outage."""
        if self._ending or self._outage_reported:
            return
        self._report_outage(
            f"{self._last_reason or 'it does not answer'}, for {seconds:.0f} s now"
            if self._failures
            else f"it has not answered for {seconds:.0f} s"
        )

    def wake_up(self) -> None:
        """Look for spans in the spool now, if the thread has nothing else to do."""
        with self._lock:
            self._changed.notify_all()

    def put(self, spans: Sequence[ReadableSpan]) -> bool:
        """Queue spans that hold a slot each. Does not wait. False if the sender has given up."""
        with self._lock:
            if self._given_up:
                return False
            self._queue.extend(spans)
            self._changed.notify_all()
            return True

    @property
    def has_warned(self) -> bool:
        """Whether the log already says why spans did not arrive."""
        return self._has_warned

    def flush(self, seconds: float, *, lost_before: int, ending: bool = False) -> bool:
        """Wait until all spans that were put before are settled.

        Args:
            seconds: The longest to wait.
            lost_before: Number of spans that had been lost when the flush began.
            ending: Whether the process ends. Attempts then follow each other quickly, and the
                caller reports the failures.

        Returns:
            True if every one of those spans is stored, or in the spool.
        """
        with self._lock:
            if self._given_up or not self._thread.is_alive():
                return self._closed_complete
            if self.is_current_thread:
                return not self._waiting_spans()
            mark = FlushMark(lost_before)
            self._queue.append(mark)
            self._hurry = True
            if not self._resume_requested:
                self._resume_at = 0.0
            self._ending = self._ending or ending
            self._changed.notify_all()
        return mark.wait(seconds)

    def finish(self, seconds: float) -> bool:
        """Deliver the waiting spans, then end the thread. Returns after at most this long.

        Returns:
            True if the thread has ended.
        """
        with self._lock:
            self._closing = self._ending = self._hurry = True
            self._changed.notify_all()
        if not self.is_current_thread:
            self._thread.join(max(seconds, 0.0))
        return not self._thread.is_alive()

    def close(self, seconds: float) -> list[ReadableSpan]:
        """Deliver the waiting spans for at most this long, then stop.

        Returns:
            The spans that are not known to be stored, in order. They still hold their slots. If the
            destination hangs, the first batch may still arrive there later.
        """
        self.finish(seconds)
        with self._lock:
            self._given_up = True
            self._left = left = self._waiting_spans()
            self.left_in_flight = len(self._in_flight)
            self._closed_complete = not left
            marks = [item for item in self._queue if isinstance(item, FlushMark)]
            self._queue.clear()
            self._in_flight = ()
            self._changed.notify_all()
        for mark in marks:
            mark.reach(complete=not left)
        return left

    def _waiting_spans(self) -> list[ReadableSpan]:
        queued = [item for item in self._queue if not isinstance(item, FlushMark)]
        return [*self._in_flight, *queued]

    def _run(self) -> None:
        # Storing a trace must not make further spans (HTTP and SQL instrumentations).
        with suppress_instrumentation():
            while self._step():
                pass
            self._finish()

    def _step(self) -> bool:
        """Do what is due next. False if the thread is to end."""
        try:
            if not self._has_begun:
                self._has_begun = True
                if self._has_time_to_warm_up():
                    self._asking_since = time.monotonic()
                    self._warm_up()
                    self._asking_since = None
            batch = self._next_batch()
            self._asking_since = time.monotonic()
            if batch:
                self._send(batch)
            elif batch is not None:
                self._use_idle_time()
            return batch is not None
        # BaseException: without this thread, no span would ever be delivered.
        except BaseException as error:
            _logger.debug("The sender raised", exc_info=True)
            self._recover(format_exception_only(error)[-1].strip())
            return True
        finally:
            self._asking_since = None

    def _recover(self, reason: str) -> None:
        """Go on after an error outside of the exporter. The batch is tried again, some times."""
        self._log.warning("sender", "The delivery of spans raised %s. It goes on.", reason)
        with self._lock:
            self._errors += 1
            batch, self._in_flight = self._in_flight, ()
            if self._given_up:
                return
            if self._errors < _MAX_CRASHES:
                self._queue.extendleft(reversed(batch))
                self._submitted_before += len(batch)
            elif batch:
                self._errors = 0
                self._counters.settle(self._slots, batch, dropped=len(batch))
                self._counters.error(reason)
                if self._spool is not None:
                    self._spool.settled(batch)
            self._changed.wait(_RECOVERY_SECONDS)

    def _finish(self) -> None:
        if self._redelivery is not None:
            try:
                self._redelivery.drain_own(lambda: not self._given_up)
                self._redelivery.drain_children(lambda: not self._given_up)
                self._redelivery.close()
            except BaseException:
                _logger.debug("The spool could not be delivered at the end", exc_info=True)
        self._last.write(lambda: self._may_write_details() and not self._given_up)
        self._close_delivery()

    def _has_time_to_warm_up(self) -> bool:
        """Wait for something to do. True if spans are announced, but none is queued yet."""
        with self._lock:
            self._changed.wait_for(lambda: self._announced or self._queue or self._closing)
            return not self._queue and not self._closing

    def _warm_up(self) -> None:
        try:
            self._delivery.warm_up()
        # The first delivery meets the same failure, and handles it.
        except BaseException:
            _logger.debug("The destination could not be opened yet", exc_info=True)

    def _next_batch(self) -> Sequence[ReadableSpan] | None:
        """The next spans to send; empty if the spool is due; None if the thread is to end."""
        with self._lock:
            while not self._given_up:
                if self._ending and self._queue and self._last.are_due_before(self._queue[0]):
                    return ()
                self._reach_marks()
                held_back = self._resume_at - time.monotonic() if self._queue else None
                if held_back is not None and (self._closing or held_back <= 0):
                    if (
                        self._redelivery is None
                        or self._closing
                        or not self._redelivery.is_overdue()
                    ):
                        return self._take_batch()
                    return ()
                if self._closing:
                    return None
                due = self._seconds_until_idle_work()
                if due is not None and due <= 0:
                    return ()
                waits = [seconds for seconds in (due, held_back) if seconds is not None]
                self._changed.wait(min(waits, default=None))
            return None

    def _seconds_until_idle_work(self) -> float | None:
        """Seconds until there is something to do apart from the queue; None if there is nothing."""
        due: list[float] = []
        if self._redelivery is not None:
            due.append(self._redelivery.seconds_until_due())
        if self._may_write_details():
            due.append(self._details_at - time.monotonic())
        return min(due, default=None)

    def _may_write_details(self) -> bool:
        if self._details is None or self._queue or not self._details.has_pending_details:
            return False
        # MLflow adds up the tokens of a trace for the last time when it gets the metadata.
        return self._spool is None or not self._spool.has_own_backlog

    def _use_idle_time(self) -> None:
        first = self._queue[0] if self._queue and self._ending else None
        if self._last.are_due_before(first):
            self._last.write_before(first, lambda: not self._given_up)
        elif self._redelivery is not None and self._redelivery.seconds_until_due() <= 0:
            self._deliver_next_of_spool()
        elif self._details is not None and not self._details.write_pending_details():
            self._details_at = time.monotonic() + _DETAILS_PAUSE_SECONDS

    def _deliver_next_of_spool(self) -> None:
        redelivery = self._redelivery
        if redelivery is not None and redelivery.deliver_next() and redelivery.has_stored:
            with self._lock:
                self._failures = 0
                self._resume_at = 0.0

    def _reach_marks(self) -> None:
        """Take the marks from the head of the queue: all spans before them are settled."""
        while self._queue and isinstance(mark := self._queue[0], FlushMark):
            mark.reach(complete=self._counters.lost_after_admission == mark.lost_before)
            self._queue.popleft()

    def _take_batch(self) -> Sequence[ReadableSpan]:
        """Take up to a batch of spans from the head of the queue. They are in flight then."""
        self._reach_marks()
        batch: list[ReadableSpan] = []
        while self._queue and len(batch) < self._batch_size:
            item = self._queue[0]
            if isinstance(item, FlushMark):
                break
            batch.append(item)
            self._queue.popleft()
        self._in_flight = batch
        return batch

    def _send(self, batch: Sequence[ReadableSpan]) -> None:
        crashes = 0
        self._submit(len(batch))
        while batch:
            try:
                outcome = self._delivery.deliver(batch)
            # BaseException: a SystemExit raised in a driver would end this thread, and with it
            # every later delivery.
            except BaseException as error:
                _logger.debug("The exporter raised", exc_info=True)
                crashes += 1
                outcome = _outcome_of_crash(error, crashes)
            if not isinstance(outcome, Retry):
                self._settle(batch, outcome)
                return
            self._note_failure(outcome)
            if self._is_worth_spilling(outcome):
                batch = self._spill_all(batch)
                if not batch:
                    self._hold_back(outcome.after)
                    return
            if outcome.refused:
                batch = self._with_others(batch)
            if not self._pause(self._failures, outcome.after):
                return

    def _submit(self, spans: int) -> None:
        """Count the spans of a batch that were not handed to the exporter before an error."""
        again = min(spans, self._submitted_before)
        self._submitted_before -= again
        self._counters.submit(spans - again)

    def _with_others(self, batch: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
        """Send further spans with a refused batch: one that is taken decides on the batch."""
        with self._lock:
            room = _MOST_BATCHES * self._batch_size - len(batch)
            if self._given_up or room <= 0:
                return batch
            # Marks stay in the queue: they are reached when the spans before them are settled.
            items = [*self._queue]
            others = [item for item in items if not isinstance(item, FlushMark)][:room]
            chosen = set(map(id, others))
            self._queue = deque(item for item in items if id(item) not in chosen)
            self._in_flight = [*batch, *others]
        self._submit(len(others))
        return self._in_flight

    def _note_failure(self, failure: Retry) -> None:
        if not self._failures:
            self._failing_since = time.monotonic()
        self._failures += 1
        self._last_reason = failure.reason
        self._report_failed_attempt(self._failures, failure)

    def _is_worth_spilling(self, failure: Retry) -> bool:
        if self._spool is None or failure.lasting:
            return self._spool is not None
        # At exit, attempts go on to the deadline; then the processor spills the spans that are
        # left.
        if self._ending:
            return False
        return time.monotonic() - self._failing_since >= self._spill_after

    def _spill_all(self, batch: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
        """Spill this batch and all waiting spans. Returns a batch that the spool did not take."""
        assert self._spool is not None
        was_submitted = True
        while batch and self._spool.spill(batch):
            with self._lock:
                if self._given_up:  # The caller of close() has these spans, too.
                    return ()
                self._counters.settle(
                    self._slots, batch, spilled=len(batch), was_submitted=was_submitted
                )
                was_submitted = False
                spilled, batch = batch, self._take_batch()
            # Afterwards: a span that is seen to wait may be copied at any moment.
            self._spool.settled(spilled)
        return batch

    def _hold_back(self, retry_after: float | None) -> None:
        """Make no attempt for a while; spans that are put meanwhile wait in memory."""
        with self._lock:
            self._resume_at = time.monotonic() + self._backoff.delay(self._failures, retry_after)
            self._resume_requested = retry_after is not None
            if self._redelivery is not None:
                self._redelivery.hold_back(self._resume_at)

    def _pause(self, attempt: int, retry_after: float | None) -> bool:
        """Wait before the next attempt. False if the sender has given up."""
        with self._lock:
            # At exit the time is short, and the destination may recover at any moment.
            delay = self._backoff.delay(1 if self._ending else attempt, retry_after)
            until = time.monotonic() + delay
            while not self._given_up:
                # Retry-After takes precedence over a pending flush.
                if self._hurry and retry_after is None:
                    self._hurry = False
                    return True
                left = until - time.monotonic()
                if left <= 0:
                    return True
                self._changed.wait(left)
            return False

    def _settle(self, batch: Sequence[ReadableSpan], outcome: Sent | Rejected) -> None:
        stored = min(outcome.spans, len(batch)) if isinstance(outcome, Sent) else 0
        rejected = len(batch) - stored
        with self._lock:
            if self._given_up:  # The caller of close() counts these spans as not delivered.
                return
            self._in_flight = ()
            self._counters.settle(self._slots, batch, stored=stored, rejected=rejected)
        self._failures = self._errors = 0
        if self._spool is not None:
            self._spool.settled(batch)
        if self._redelivery is not None and stored:
            self._redelivery.destination_answers()
        if rejected:
            self._counters.error(outcome.reason)
        # If a stored batch lacks some spans, the exporter itself logs which spans and why.
        if isinstance(outcome, Rejected):
            self._report_rejection(rejected, outcome.reason)
        if self._outage_reported and stored:
            self._outage_reported = False
            _logger.info("%s accepts spans again.", self._delivery.destination_description)

    def _report_failed_attempt(self, attempt: int, failure: Retry) -> None:
        self._counters.failed_attempt(failure.reason)
        # A single failure may be transient. At exit, the summary reports the failure.
        if (attempt == 1 and not failure.lasting) or self._ending:
            return
        self._report_outage(failure.reason)

    def _report_outage(self, reason: str) -> None:
        self._outage_reported = self._has_warned = True
        self._log.warning(
            "outage",
            "%s does not accept spans: %s. It is tried again; %d spans wait for it, and %s "
            "(settings: MLFLOW_TRACKING_URI, max_queue_size).",
            self._delivery.destination_description,
            reason,
            self._slots.used,
            self._backlog_note,
        )

    @property
    def _backlog_note(self) -> str:
        if self._spool is not None:
            return f"spans that wait longer are kept in {self._spool.path}"
        return f"no span is lost while fewer than {self._slots.capacity} wait"

    def _report_rejection(self, spans: int, reason: str) -> None:
        if self._ending or not self._reports_refusals:
            return
        self._has_warned = True
        self._log.warning(
            "rejected",
            "%s refused %d spans for good: %s. They are lost.",
            self._delivery.destination_description,
            spans,
            reason,
        )

    def _close_delivery(self) -> None:
        try:
            self._delivery.close()
        except BaseException:
            _logger.warning(
                "Closing %s failed", self._delivery.destination_description, exc_info=True
            )


def _outcome_of_crash(error: BaseException, crashes: int) -> Retry | Rejected:
    # Unlike str(), this also describes an exception whose own __str__ raises.
    reason = format_exception_only(error)[-1].strip()
    if crashes < _MAX_CRASHES:
        return Retry(reason=reason, after=None)
    return Rejected(reason=reason)
