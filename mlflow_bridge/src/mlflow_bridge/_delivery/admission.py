# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Where a span goes that has ended: into the queue, to the spool, or nowhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.sender import Sender
from mlflow_bridge._delivery.shutdown import seconds_until
from mlflow_bridge._delivery.slots import Slots
from mlflow_bridge._delivery.spill import SpillWriter
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import Counters
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger

_TOO_LATE: Final = "it ended after the shutdown of the tracer provider"

_GIVE_WAY_SECONDS: Final = 0.04
"""The longest that a thread waits for the disk where it is not to wait for a slot: about as long as
the writer takes for the spans that it writes at once."""


class Admission:
    """Finds a place for each span, on the thread that ends it.

    At the limit of the queue, with the policy "spill", a span goes to the `SpillWriter` at once;
    with "block", or without one, the thread waits for a slot first. Where the writer has hardly
    any room either, the disk being slower than the program, the thread gives way to it: better
    slow than without its spans. With "block" all of it takes ``block_seconds`` at most, with
    "spill" a moment. A thread that runs an event loop never waits, nor do those of the sender and
    the writer.

    Args:
        enqueue: Queues a span that has a slot, and is on disk if it is to be there first.
        slots: One for each span in the queue or on its way.
        spool: Where spans go that have no slot. Spans that end after the shutdown are written to it
            directly. With write-ahead, so is every span without a slot, since each span has to be
            on disk before its end returns.
        spill: Writes to the spool otherwise.
        blocks: Whether to wait for a slot before a span is spilled.
        block_seconds: The longest wait for room.
        sender: Whose thread never waits.
    """

    def __init__(
        self,
        enqueue: Callable[[ReadableSpan], None],
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
    ) -> None:
        self._enqueue = enqueue
        self._slots = slots
        self._take_slot = slots.take
        self._counters = counters
        self._log = log
        self._destination = destination
        self._spill = spill
        self._spool = spool
        self._blocks = blocks or spool is None
        self._patience = block_seconds if self._blocks else min(block_seconds, _GIVE_WAY_SECONDS)
        self._sender = sender

    def admit(self, span: ReadableSpan) -> None:
        """Find a place for the span, or count it as lost."""
        try:
            self._take_slot()
        except IndexError:
            self._admit_without_slot(span)
            return
        try:  # as in queue(), without a call more for each span
            spool = self._spool
            if spool is not None and spool.writes_ahead:
                spool.write_ahead(span)
            self._enqueue(span)
        except BaseException:
            self._slots.give_back(1)
            raise

    def _admit_without_slot(self, span: ReadableSpan) -> None:
        patience = self._patience if self._may_wait() else 0.0
        until = time.monotonic() + patience
        if self._blocks and patience and self._slots.take_within(patience):
            self.queue(span)
        elif not self._spilled(span, until):
            self.lose(self._reason)

    def _may_wait(self) -> bool:
        if self._sender.is_current_thread or _runs_event_loop():
            return False
        return self._spill is None or not self._spill.is_current_thread

    def admit_too_late(self, span: ReadableSpan) -> None:
        """Find a place for a span that got a slot, and found the queue closed."""
        spilled = self._is_kept(span)
        self._counters.settle_late(self._slots, 1, spilled=int(spilled), dropped=int(not spilled))
        if not spilled:
            self._report_loss(_TOO_LATE)

    def admit_late(self, span: ReadableSpan, room: Slots | None = None) -> None:
        """Find a place for a span that ended after the shutdown.

        Args:
            span: The span.
            room: Where it has a slot, if anywhere.
        """
        spilled = self._is_kept(span)
        with self._counters.lock:
            if room is not None:
                room.give_back(1)
            self._counters.add(spilled=int(spilled), dropped=int(not spilled))
        if not spilled:
            self._report_loss(_TOO_LATE)

    def _is_kept(self, span: ReadableSpan) -> bool:
        return self._spool is not None and self._spool.accept((span,))

    def lose(self, reason: str) -> None:
        """Count a span that has no place."""
        self._counters.add(dropped=1)
        self._report_loss(reason)

    def _report_loss(self, reason: str) -> None:
        self._counters.error(reason)
        self._log.warning(
            "lost", "A span was lost on its way to %s: %s.", self._destination, reason
        )

    def queue(self, span: ReadableSpan) -> None:
        """Queue a span that has a slot."""
        try:
            if self._spool is not None:
                self._spool.write_ahead(span)
            self._enqueue(span)
        except BaseException:
            self._slots.give_back(1)
            raise

    def _spilled(self, span: ReadableSpan, until: float) -> bool:
        if self._spill is None or self._spool is None:
            return False
        if self._spool.writes_ahead and self._spool.accept((span,)):
            self._counters.add(spilled=1)
            return True
        # With a disk that takes nothing now, memory is the better place than none.
        seconds = seconds_until(until)
        return self._spill.put_within(span, seconds) if seconds else self._spill.put(span)

    @property
    def _reason(self) -> str:
        reason = f"{self._slots.capacity} spans wait already (setting: max_queue_size)"
        if self._spill is None:
            return reason
        return f"{reason}, and {self._spill.capacity} for the disk (setting: max_spill_queue_size)"


def _runs_event_loop() -> bool:
    # Where asyncio was never imported no loop can run, and importing it takes a while.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
