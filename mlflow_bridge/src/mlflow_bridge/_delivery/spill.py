# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The thread that writes spans to the spool, so that no thread of the program writes to a disk."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.copies import Copying
from mlflow_bridge._delivery.slots import FlushMark, Slots
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import Counters

_logger = logging.getLogger(__name__)

_FEW_SPANS: Final = 32
"""Spans per write when the backlog is small: about 0.5 ms of work, then other threads run."""

_MANY_SPANS: Final = 512
"""Spans per write when the backlog is large. Each write releases the GIL, and a busy program keeps
it for `sys.getswitchinterval` (5 ms); so the number of writes bounds the throughput, not their
size."""

_SHARE: Final = 8
"""One write takes 1/8 of the waiting spans, within the two limits above. And 1/8 of the capacity is
reserved for threads that must not wait, such as the threads of event loops."""

_GIVE_WAY_SECONDS: Final = 0.0002
"""Pause after a small write: a thread that waits for the GIL gets it now, not after 5 ms."""

_REFUSED_SECONDS: Final = 0.02
"""Pause before the next attempt if the spool refuses and no slot is free."""

_Item = ReadableSpan | FlushMark | Copying | None


class SpillWriter:
    """A daemon thread that writes spans to the spool; any thread may hand spans over.

    ``put`` does not wait. Waiting spans are in memory, at most ``capacity`` of them. While the
    spool refuses, spans go back to the queue of the processor as slots get free there. The thread
    also copies spans that wait in that queue for too long. It is started at once, for the same
    reason as the sender's.

    Args:
        spool: Takes the spans.
        slots: The slots of the processor's queue, to which spans go back.
        counters: Count the spans that the spool has taken.
        requeue: Sends a span that has got a slot of the queue.
        too_late: Finds a place for a span that has a slot of ``room``, but that `close` could not
            return because it was put too late.
        capacity: The most spans that may wait.
        max_bytes: The most bytes of spans that may wait, approximately.
        written: Called after spans were written.
        gate: Gets an iterator over each span that has got a slot of ``room``, consumes it in one
            instruction, and gives spans of wanted traces to `take_over`. None if all traces are
            wanted.
    """

    def __init__(
        self,
        spool: Spool,
        *,
        slots: Slots,
        counters: Counters,
        requeue: Callable[[ReadableSpan], object],
        too_late: Callable[[ReadableSpan, Slots], object],
        capacity: int,
        max_bytes: int,
        written: Callable[[], object],
        gate: Callable[[Iterator[ReadableSpan]], object] | None = None,
    ) -> None:
        self._spool = spool
        self._slots = slots
        self._counters = counters
        self._requeue = requeue
        self._too_late = too_late
        self._written = written
        self._enter = self._put if gate is None else gate
        self.room = Slots(capacity, max_bytes)
        """A slot for each span that waits here."""
        # Its put() is reentrant: a garbage collection may call put() inside put().
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        # Guards the two fields below: they say whether this thread or the caller of close() counts
        # the spans of the current line.
        self._lock = threading.Lock()
        self._line: list[ReadableSpan] = []
        self._given_up = False
        self._thread = threading.Thread(target=self._run, name="mlflow-bridge-spill", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of spans that wait here."""
        return self.room.used

    @property
    def thread(self) -> threading.Thread:
        """The thread that writes."""
        return self._thread

    @property
    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread

    @property
    def capacity(self) -> int:
        return self.room.capacity

    def take(self, room: list[object]) -> bool:
        """Put a slot for a span into a list, if there is room. Does not wait."""
        return self.room.take_into(room)

    def take_within(self, seconds: float, room: list[object]) -> bool:
        """Put a slot for a span into a list as `take` does, waiting at most this long for room.

        Callers that can wait leave part of the capacity to callers that cannot.
        """
        return self.room.take_within(seconds, room, leaving=self.capacity // _SHARE)

    def put(self, span: ReadableSpan, once: Iterator[ReadableSpan]) -> None:
        """Take a span that has a slot. Does not wait.

        Args:
            span: The span.
            once: Gives the span once. After an interruption, the same call may be made again.
        """
        # Here and not when it is written: if the disk hangs, only this bounds the memory.
        self._counters.weigh(self.room, (span,))
        self._enter(once)

    def take_over(self, span: ReadableSpan) -> None:
        """Take a span of a wanted trace that has a slot of ``room``. Does not wait."""
        self._put(iter((span,)))

    def _put(self, once: Iterator[ReadableSpan]) -> None:
        # One instruction takes the span out of the iterator and puts it into the queue.
        deque(map(self._queue.put, once), maxlen=0)
        if self._given_up:  # The span may have been put after close() had emptied the queue.
            for late in self._take_out():
                self._too_late(late, self.room)

    def copy(self, copying: Copying) -> None:
        """Begin to copy spans to the disk, unless that is under way. Returns at once."""
        if copying.begin():
            self._queue.put(copying)

    def flush(self, seconds: float) -> bool:
        """Wait until all spans put before are in the spool, or in the processor's queue again."""
        if not self.waiting:
            return True
        mark = FlushMark(0)
        self._queue.put(mark)
        return mark.wait(seconds)

    def close(self, seconds: float) -> list[ReadableSpan]:
        """Find a place for the waiting spans for at most this long, then end the thread.

        Returns:
            The spans that are not known to have a place, in order. They still hold their slots.
        """
        self._queue.put(None)
        self._thread.join(max(seconds, 0.0))
        with self._lock:
            self._given_up = True
            # A copy: the thread may be in the middle of writing the line.
            left = [*self._line]
            self._line = []
        return [*left, *self._take_out()]

    def _take_out(self) -> Iterator[ReadableSpan]:
        """Take out the waiting spans one by one: other threads may do so at the same time."""
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
            if isinstance(item, FlushMark):
                item.reach(complete=False)
            elif isinstance(item, ReadableSpan):
                yield item
        # The None that ends the thread may have been taken out. Without it, the thread would wait
        # for ever.
        self._queue.put(None)

    def _run(self) -> None:
        with suppress_instrumentation():
            while self._goes_on():
                pass

    def _goes_on(self) -> bool:
        try:
            return self._write_next()
        # BaseException: without this thread, spans would wait here for ever.
        except BaseException:
            _logger.debug("The spill writer raised", exc_info=True)
            time.sleep(_REFUSED_SECONDS)
            return True

    def _write_next(self) -> bool:
        """Write one line. False when there is nothing more to do."""
        if self._line:  # An error has interrupted the last write.
            return self._settle()
        item: _Item = self._queue.get()
        line: list[ReadableSpan] = []
        most = min(max(self.waiting // _SHARE, _FEW_SPANS), _MANY_SPANS)
        while isinstance(item, ReadableSpan):
            line.append(item)
            if len(line) == most:
                break
            try:
                item = self._queue.get_nowait()
            except Empty:
                break
        with self._lock:
            given_up = self._given_up
            if not given_up:
                self._line = line
        if given_up:
            # close() has not returned these spans: it found them neither in the queue nor in the
            # line.
            self._settle_late(line, item)
            return False
        settled = not line or self._settle()
        if isinstance(item, FlushMark):
            item.reach(complete=settled)
        elif isinstance(item, Copying) and item.go_on(self._spool):
            self._queue.put(item)
        return settled and item is not None

    def _settle_late(self, line: list[ReadableSpan], item: _Item) -> None:
        for span in line:
            self._too_late(span, self.room)
        if isinstance(item, FlushMark):
            item.reach(complete=False)

    def _settle(self) -> bool:
        """Find a place for the spans of the line. False if the writer is closed meanwhile."""
        few = len(self._line) <= _FEW_SPANS
        while True:
            self._release(self._taken(self._line))
            if not self._line or self._return_to_queue():
                if few:
                    time.sleep(_GIVE_WAY_SECONDS)
                return not self._given_up
            if self._given_up:
                return False
            time.sleep(_REFUSED_SECONDS)

    def _taken(self, line: list[ReadableSpan]) -> int:
        try:
            return self._spool.take(line)
        # BaseException: a SystemExit would end this thread.
        except BaseException:
            _logger.debug("The spool raised", exc_info=True)
            return 0

    def _return_to_queue(self) -> bool:
        """Queue spans of the line while slots are free. True if all of them are queued."""
        while self._line:
            with self._lock:
                if self._given_up or not self._exchange_slot(self._line[0]):
                    return False
                span, self._line = self._line[0], self._line[1:]
            self._requeue(span)
        return True

    def _exchange_slot(self, span: ReadableSpan) -> bool:
        """Exchange a slot of the spill writer for a slot of the queue; False if none is free."""
        with self._counters.lock:
            if not self._slots.try_take():
                return False
            self.room.release((span,))
            self._counters.weigh(self._slots, (span,))
            return True

    def _release(self, count: int) -> None:
        """Forget the first spans of the line, which the spool has."""
        with self._lock:
            if self._given_up:  # The caller of close() counts these spans.
                return
            taken, self._line = self._line[:count], self._line[count:]
            self._counters.settle(self.room, taken, spilled=count)
        if count:
            self._written()
