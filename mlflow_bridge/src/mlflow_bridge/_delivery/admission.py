# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Admission of ended spans: to the queue, to the spool, or to neither."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.sender import Sender
from mlflow_bridge._delivery.shutdown import seconds_until
from mlflow_bridge._delivery.slots import Slots
from mlflow_bridge._delivery.spill import SpillWriter
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import ALREADY_SHUTDOWN, QUEUE_FULL, Counters
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger

_TOO_LATE: Final = "it ended after the shutdown of the tracer provider"

_GIVE_WAY_SECONDS: Final = 0.04
"""The longest wait for room in the spill queue if the policy is not to wait for a slot: about the
time of one write of the spill writer."""


class Placing:
    """A span for which a place is being looked for, and how far the search has come.

    A signal handler may interrupt the search at any instruction. With this record it can be called
    again, and goes on.
    """

    __slots__ = ("claim", "is_lost", "is_spilled", "once", "room", "slot", "span")

    def __init__(self, span: ReadableSpan, claim: Iterator[ReadableSpan] | None = None) -> None:
        self.span = span
        self.claim = claim
        """What `Slots.claim` gives for the span; None if no slot was free."""
        self.once = iter((span,))
        self.slot: list[object] = []
        self.room: list[object] = []
        self.is_spilled = self.is_lost = False


class Admission:
    """Admission of each span to the queue or the spool, on the thread that ends the span.

    If no slot is free and the policy is "spill", a span goes to the `SpillWriter` at once. With
    "block", or without a spool, the thread waits for a slot first. If the spill writer has hardly
    any room either, the disk is slower than the program. The thread then waits for the writer: a
    slower program is better than lost spans. With "block", these waits take at most
    ``block_seconds`` in total; with "spill", at most 40 ms. Threads that run an event loop,
    the sender's and the writer's never wait.

    Args:
        enqueue: Queues a span that has a slot; with write-ahead, the span is on disk by then.
        slots: One slot for each span in the queue or on its way to MLflow.
        spool: Takes spans that have no slot. Spans that end after the shutdown are written to it
            directly. With write-ahead, spans without a slot are written directly, too, because each
            span has to be on disk before ``end()`` returns.
        spill: Writes all other spans without a slot to the spool.
        blocks: Whether to wait for a slot before a span is spilled.
        block_seconds: The longest wait for room.
        sender: The sender; its thread never waits.
        note: Tells the collector of a span that it will not get.
        filters: Whether a filter of traces decides which spans are delivered.
    """

    def __init__(
        self,
        enqueue: Callable[[Iterable[ReadableSpan]], None],
        *,
        slots: Slots,
        counters: Counters,
        log: RateLimitedLogger,
        destination: str,
        spill: SpillWriter | None,
        spool: Spool | None,
        blocks: bool,
        block_seconds: float,
        sender: Sender,
        note: Callable[[ReadableSpan], None],
        filters: bool,
    ) -> None:
        self._note = note
        self._filters = filters
        self._enqueue = enqueue
        self._slots = slots
        self._counters = counters
        self._log = log
        self._destination = destination
        self._spill = spill
        self._spool = spool
        self._blocks = blocks or spool is None
        self._patience = block_seconds if self._blocks else min(block_seconds, _GIVE_WAY_SECONDS)
        self._sender = sender

    def place(self, placing: Placing, *, may_wait: bool = True) -> None:
        """Find a place for a span, or count it as lost; after an interruption, go on."""
        if placing.is_lost:
            return
        if placing.claim is not None and not placing.slot:
            try:
                placing.slot.extend(placing.claim)
            except IndexError:
                placing.claim = None
            else:
                if not placing.slot:  # The interrupted call has queued the span.
                    return
        patience = self._patience if may_wait and self._may_wait() else 0.0
        until = time.monotonic() + patience
        if self._has_slot(placing, patience):
            self._queue_once(placing)
        elif not self._spilled(placing, until):
            placing.is_lost = True
            self._note(placing.span)  # The rest of its trace is still to be delivered.
            self.lose(self._reason, QUEUE_FULL)

    def _has_slot(self, placing: Placing, patience: float) -> bool:
        if placing.slot:
            return True
        if placing.room or placing.is_spilled or not self._blocks or not patience:
            return False
        return self._slots.take_within(patience, placing.slot)

    def _queue_once(self, placing: Placing) -> None:
        spool = self._spool
        if spool is not None and not spool.has_written_ahead(placing.span):
            spool.write_ahead(placing.span)
        self._enqueue(placing.once)

    def _may_wait(self) -> bool:
        if self._sender.is_current_thread or runs_event_loop():
            return False
        return self._spill is None or not self._spill.is_current_thread

    def admit_too_late(self, span: ReadableSpan) -> None:
        """Find a place for a span that has a slot, but was queued after the queue was closed."""
        spilled = self._is_kept(span)
        self._settle_late(self._slots, span, spilled)
        if not spilled:
            self._report_loss(_TOO_LATE)

    def admit_late(self, span: ReadableSpan, room: Slots | None = None) -> None:
        """Find a place for a span that ended after the shutdown.

        Args:
            span: The span.
            room: The slots of which the span has one; None if the span has no slot.
        """
        spilled = self._is_kept(span)
        with self._counters.lock:
            if room is not None:
                self._settle_late(room, span, spilled)
            elif spilled:
                self._counters.add(spilled=1)
            else:
                self._counters.add(dropped=1, dropped_for=ALREADY_SHUTDOWN)
        if not spilled:
            self._report_loss(_TOO_LATE)

    def _settle_late(self, slots: Slots, span: ReadableSpan, spilled: bool) -> None:
        if spilled:
            self._counters.settle(slots, (span,), spilled=1)
        else:
            self._counters.settle(slots, (span,), dropped=1, dropped_for=ALREADY_SHUTDOWN)

    def _is_kept(self, span: ReadableSpan) -> bool:
        return self._spool is not None and self._spool.accept((span,))

    def lose(self, reason: str, kind: str) -> None:
        """Count a span as dropped, and log the loss.

        Args:
            reason: The reason in words.
            kind: The reason as in `DeliveryStatus.dropped_by`.
        """
        self._counters.add(dropped=1, dropped_for=kind)
        self._report_loss(reason)

    def _report_loss(self, reason: str) -> None:
        self._counters.error(reason)
        self._log.warning(
            "lost", "A span was lost on its way to %s: %s.", self._destination, reason
        )

    def _spilled(self, placing: Placing, until: float) -> bool:
        if placing.is_spilled:
            return True
        if self._spill is None or self._spool is None:
            return False
        if not placing.room and self._spool.writes_ahead and self._is_on_disk(placing, self._spool):
            return True
        # If the disk refuses writes, keeping the span in memory is better than losing it. With a
        # filter, the span is on disk and in memory: the filter has not decided on it.
        seconds = seconds_until(until)
        if self._has_room(self._spill, placing, seconds):
            return True
        if not self._filters or not self._spool.has_written_ahead(placing.span):
            return False
        # The next process delivers the copy, unless the trace is not wanted.
        placing.is_spilled = True
        self._note(placing.span)
        self._counters.add(spilled=1)
        return True

    def _is_on_disk(self, placing: Placing, spool: Spool) -> bool:
        """Write the span to the disk. Whether it needs no room in memory then."""
        if self._filters:
            if not spool.has_written_ahead(placing.span):
                spool.write_ahead(placing.span)
            return False
        if not spool.accept((placing.span,)):
            return False
        placing.is_spilled = True
        self._note(placing.span)
        self._counters.add(spilled=1)
        return True

    @staticmethod
    def _has_room(spill: SpillWriter, placing: Placing, seconds: float) -> bool:
        room = placing.room
        if not room and not (spill.take_within(seconds, room) if seconds else spill.take(room)):
            return False
        spill.put(placing.span, placing.once)
        return True

    @property
    def _reason(self) -> str:
        reason = f"{_load_of(self._slots, 'max_queue')} wait already"
        if self._spill is None:
            return reason
        return f"{reason}, and {_load_of(self._spill.room, 'max_spill_queue')} for the disk"


def _load_of(slots: Slots, setting: str) -> str:
    if slots.reserved:
        return f"{slots.used} large spans (setting: {setting}_bytes)"
    return f"{slots.capacity} spans (setting: {setting}_size)"


def runs_event_loop() -> bool:
    """Whether this thread runs an event loop."""
    # If asyncio was never imported, no loop can run; importing it here would take a while.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
