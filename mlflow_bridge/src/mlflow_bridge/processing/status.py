# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What became of the spans, in numbers."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from mlflow_bridge.spool.status import SpoolStatus


@dataclass(frozen=True)
class DeliveryStatus:
    """Counters of one processor in this process; a forked child starts from zero.

    ``accepted`` is always the sum of ``stored``, ``rejected``, ``filtered``, ``queued`` and the
    accepted ones among ``spilled`` and ``dropped``.
    """

    accepted: int
    """Sampled spans that were taken."""
    stored: int
    """Spans that MLflow has confirmed."""
    retried: int
    """Attempts that failed for the moment and were repeated."""
    rejected: int
    """Spans that MLflow refused for good."""
    dropped: int
    """Spans lost: no room for them, or not delivered in time at shutdown."""
    spilled: int
    """Spans given to the overflow."""
    queued: int
    """Spans that wait, or are being sent."""
    last_error: str | None
    """Why the latest attempt or admission failed that did."""
    recovered: int = 0
    """Spilled spans that were stored after all."""
    kept: int = 0
    """Spilled spans that are still with the overflow."""
    redelivered: int = 0
    """Spans stored from the spool, also those that other processes left there."""
    spool_dropped: int = 0
    """Spans lost from the spool, whoever left them there: at its limits, unreadable or refused."""
    spool_bytes: int = 0
    """What all processes with this destination have on disk."""
    spool_oldest_seconds: float = 0.0
    """How long ago the oldest file of the spool was begun; 0 if it is empty."""
    not_written_ahead: int = 0
    """Spans that were to be on disk before they were sent, and were not."""
    filtered: int = 0
    """Spans of traces that are not for MLflow, since nothing of DSPy or GenAI is in them."""
    held: int = 0
    """Queued spans of traces of which it is not known yet whether they are for MLflow."""
    queue_capacity: int = 0
    """The most spans that may be queued."""
    destination: str = ""
    """Where the spans go, in words; without secrets."""

    @property
    def missing(self) -> int:
        """Spans that are not in MLflow, nor on their way."""
        return self.rejected + self.dropped + self.spilled - self.recovered


class Counters:
    """The numbers behind `DeliveryStatus`, changed by any thread.

    The lock is reentrant for the same reason as in `Notices`.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stored = 0
        self._retried = 0
        self._rejected = 0
        self._refused = 0
        self._abandoned = 0
        self._spilled_at_the_door = 0
        self._spilled_from_queue = 0
        self._filtered = 0
        self._last_error: str | None = None

    def filtered(self, count: int) -> None:
        with self._lock:
            self._filtered += count

    def delivered(self, *, stored: int, rejected: int) -> None:
        with self._lock:
            self._stored += stored
            self._rejected += rejected

    def failed_attempt(self, reason: str) -> None:
        with self._lock:
            self._retried += 1
            self._last_error = reason

    def error(self, reason: str) -> None:
        with self._lock:
            self._last_error = reason

    def not_admitted(self, *, spilled: bool) -> None:
        with self._lock:
            if spilled:
                self._spilled_at_the_door += 1
            else:
                self._refused += 1

    def given_up(self, count: int, *, spilled: bool) -> None:
        with self._lock:
            if spilled:
                self._spilled_from_queue += count
            else:
                self._abandoned += count

    @property
    def lost_after_admission(self) -> int:
        with self._lock:
            return self._rejected + self._abandoned

    def status(
        self,
        queued: int,
        spool: SpoolStatus | None,
        *,
        held: int,
        capacity: int,
        destination: str,
    ) -> DeliveryStatus:
        spool = spool or SpoolStatus()
        with self._lock:
            spilled = self._spilled_at_the_door + self._spilled_from_queue
            settled = self._stored + self._rejected + self._filtered
            settled += self._abandoned + self._spilled_from_queue
            return DeliveryStatus(
                accepted=settled + queued,
                stored=self._stored,
                retried=self._retried,
                rejected=self._rejected,
                dropped=self._refused + self._abandoned,
                spilled=spilled,
                queued=queued,
                last_error=self._last_error,
                recovered=spool.stored_own,
                kept=max(spilled - spool.stored_own - spool.dropped_own, 0),
                redelivered=spool.redelivered,
                spool_dropped=spool.dropped,
                spool_bytes=spool.bytes,
                spool_oldest_seconds=spool.oldest_seconds,
                not_written_ahead=spool.unjournaled,
                filtered=self._filtered,
                held=held,
                queue_capacity=capacity,
                destination=destination,
            )
