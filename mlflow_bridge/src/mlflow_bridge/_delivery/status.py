# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The delivery status: counters of what happened to the spans."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.slots import Slots

QUEUE_FULL: Final = "queue_full"
ALREADY_SHUTDOWN: Final = "already_shutdown"
TIMEOUT: Final = "timeout"


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """Status of the spool: counters of this process, and the size of the directory now."""

    redelivered: int = 0
    """Spans from the spool that MLflow has confirmed, also those of other processes.

    A span counts again if the delivery of its file had to begin again.
    """
    dropped: int = 0
    """Spans lost from the spool: at its limits, unreadable, or refused by MLflow."""
    stored_own: int = 0
    """Redelivered spans that this process had spilled itself."""
    dropped_own: int = 0
    """Dropped spans that this process had spilled itself."""
    bytes: int = 0
    """Size of all files, also those of other processes."""
    oldest_seconds: float = 0.0
    """Age of the oldest file in seconds; 0 if there is no file."""
    not_written_ahead: int = 0
    """Spans that write-ahead could not write to the disk before they were sent."""
    filtered: int = 0
    """Spans left out because their trace is not for MLflow."""


@dataclass(frozen=True)
class DeliveryStatus:
    """Counters of one processor in this process; a forked child starts from zero.

    ``accepted`` is the sum of ``stored``, ``rejected``, ``filtered``, ``queued``, ``spilled`` and
    ``dropped``, at any moment.
    """

    accepted: int
    """Sampled spans that ended."""
    stored: int
    """Spans that MLflow has confirmed."""
    retried: int
    """Attempts that failed temporarily and were repeated."""
    rejected: int
    """Spans that MLflow refused for good."""
    dropped: int
    """Spans lost: no room for them, or not delivered in time at shutdown."""
    spilled: int
    """Spans written to the spool."""
    queued: int
    """Spans that wait, or are being sent."""
    last_error: str | None
    """Reason of the latest failed attempt or lost span; None if there was no failure."""
    recovered: int = 0
    """Spilled spans that were stored later."""
    kept: int = 0
    """Spilled spans that are still in the spool."""
    redelivered: int = 0
    """Spans stored from the spool, also those that other processes left there."""
    spool_dropped: int = 0
    """Spans of any process lost from the spool: at its limits, unreadable or refused."""
    spool_bytes: int = 0
    """Bytes that all processes with this destination have on disk."""
    spool_oldest_seconds: float = 0.0
    """Age of the oldest file of the spool in seconds; 0 if the spool is empty."""
    not_written_ahead: int = 0
    """Spans that write-ahead could not write to the disk before they were sent."""
    filtered: int = 0
    """Spans left out: their trace has no span of DSPy or GenAI, or is not kept by tail sampling."""
    held: int = 0
    """Queued spans that the filter holds back, because it has not decided on their traces.

    Spans of a long trace are on disk meanwhile.
    """
    queue_capacity: int = 0
    """The most spans that may be queued."""
    destination: str = ""
    """Description of the destination, without secrets."""
    spool_filtered: int = 0
    """Spans left out of the spool, also those of other processes, for the same reasons."""
    processed: int = 0
    """Spans that were handed to the exporter, or written to the spool instead."""
    dropped_by: Mapping[str, int] = field(default_factory=dict[str, int])
    """The dropped spans that were never handed to the exporter, by reason.

    The reasons are ``queue_full``, ``already_shutdown``, ``timeout`` (no time at the end), or the
    name of an exception.
    """
    dead_threads: tuple[str, ...] = ()
    """Names of threads of the delivery that an error has ended; always empty unless there is a bug.

    Spans wait until the exit then, and go to the spool.
    """

    @property
    def missing(self) -> int:
        """Spans that are neither in MLflow nor on their way."""
        return self.rejected + self.dropped + self.spilled - self.recovered


class Counters:
    """The counters behind `DeliveryStatus`, changed by any thread.

    A span that waits is counted by its slot. ``settle`` moves it from there to a counter in one
    step, so that every span is counted exactly once at any moment.

    The lock is reentrant for the same reason as in `RateLimitedLogger`.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._stored = 0
        self._retried = 0
        self._rejected = 0
        self._dropped = 0
        self._dropped_from_queue = 0
        self._spilled = 0
        self._filtered = 0
        self._parked = 0
        self._submitted = 0
        self._spilled_submitted = 0
        self._dropped_by: Counter[str] = Counter()
        self._last_error: str | None = None

    def add(
        self,
        *,
        stored: int = 0,
        rejected: int = 0,
        filtered: int = 0,
        spilled: int = 0,
        parked: int = 0,
        dropped: int = 0,
        dropped_for: str | None = None,
        was_submitted: bool = False,
    ) -> None:
        """Count spans that hold no slot.

        Args:
            stored: Number of spans with this outcome, as the next ones.
            rejected: See `DeliveryStatus`.
            filtered: See `DeliveryStatus`.
            spilled: See `DeliveryStatus`.
            parked: Spans on disk that count as queued, until their trace is decided.
            dropped: See `DeliveryStatus`.
            dropped_for: Why spans are dropped; None if they were handed to the exporter before.
            was_submitted: Whether spilled spans were handed to the exporter before.
        """
        with self.lock:
            if dropped and dropped_for is not None:
                self._dropped_by[dropped_for] += dropped
            if was_submitted:
                self._spilled_submitted += spilled
            self._stored += stored
            self._rejected += rejected
            self._filtered += filtered
            self._spilled += spilled
            self._parked += parked
            self._dropped += dropped

    def weigh(self, slots: Slots, spans: Iterable[ReadableSpan]) -> None:
        """Reserve further slots for those of the spans that are large."""
        large = [(span, extra) for span in spans if (extra := slots.extra_of(span))]
        if large:
            with self.lock:
                for span, extra in large:
                    slots.reserve(span, extra)

    def submit(self, spans: int) -> None:
        """Count spans that are handed to the exporter for the first time."""
        with self.lock:
            self._submitted += spans

    def settle(
        self,
        slots: Slots,
        spans: Sequence[ReadableSpan],
        *,
        dropped_for: str | None = None,
        was_submitted: bool = False,
        **outcomes: int,
    ) -> None:
        """Free the slots of spans, and count the outcome of each span.

        Spans whose slots `Slots.give_back_all` has freed already count as dropped.

        Args:
            slots: The slots that the spans hold.
            spans: The spans.
            dropped_for: As in `add`.
            was_submitted: As in `add`.
            **outcomes: Number of spans with each outcome, as in `add`.
        """
        with self.lock:
            self.add(**outcomes, dropped_for=dropped_for, was_submitted=was_submitted)
            self.add(dropped=slots.release(spans) - len(spans), dropped_for=TIMEOUT)
            self._dropped_from_queue += outcomes.get("dropped", 0)

    def failed_attempt(self, reason: str) -> None:
        with self.lock:
            self._retried += 1
            self._last_error = reason

    def error(self, reason: str) -> None:
        with self.lock:
            self._last_error = reason

    @property
    def lost_after_admission(self) -> int:
        with self.lock:
            return self._rejected + self._dropped_from_queue

    def status(
        self,
        waiting: Iterable[Slots],
        spool: SpoolStatus | None,
        *,
        held: int,
        destination: str,
        dead_threads: tuple[str, ...] = (),
    ) -> DeliveryStatus:
        """The counters now.

        Args:
            waiting: The slots of the spans that wait.
            spool: The status of the spool; None without a spool.
            held: Number of waiting spans that the filter holds.
            destination: Description of the destination.
            dead_threads: Names of threads that an error has ended.
        """
        spool = spool or SpoolStatus()
        rooms = tuple(waiting)
        with self.lock:
            queued = sum(slots.used for slots in rooms) + self._parked
            settled = self._stored + self._rejected + self._filtered
            return DeliveryStatus(
                accepted=settled + queued + self._spilled + self._dropped,
                stored=self._stored,
                retried=self._retried,
                rejected=self._rejected,
                dropped=self._dropped,
                spilled=self._spilled,
                queued=queued,
                last_error=self._last_error,
                recovered=spool.stored_own,
                kept=max(self._spilled - spool.stored_own - spool.dropped_own, 0),
                redelivered=spool.redelivered,
                spool_dropped=spool.dropped,
                spool_bytes=spool.bytes,
                spool_oldest_seconds=spool.oldest_seconds,
                not_written_ahead=spool.not_written_ahead,
                filtered=self._filtered,
                held=held + self._parked,
                queue_capacity=sum(slots.capacity for slots in rooms),
                destination=destination,
                spool_filtered=spool.filtered,
                processed=self._submitted + self._spilled - self._spilled_submitted,
                dropped_by={reason: spans for reason, spans in self._dropped_by.items() if spans},
                dead_threads=dead_threads,
            )
