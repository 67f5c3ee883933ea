# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The queue between the threads of the program and the sender, and the filter of traces behind it.

The filter has its own thread. On the thread that ends a span, it would slow the program down. On
the sender's thread, a destination that hangs for half a minute would stop it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.sender import Sender
from mlflow_bridge._delivery.slots import FlushMark, Slots
from mlflow_bridge._delivery.spill import SpillWriter
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import Counters
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.annotation import is_annotation
from mlflow_bridge._spans.asgi_io import AsgiIo
from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.trace_buffer import Sorted, TraceBuffer

_logger = logging.getLogger(__name__)

_REVIVED: Final = 1024
_NOTED: Final = 4096
_LOOK_SECONDS: Final = 1.0
_COUNT_SECONDS: Final = 0.05
"""Time between two counts of the local roots that wait, once there may be enough of them. They are
not counted where they end, which would cost every span some steps on the program's thread."""
_RECOVERY_SECONDS: Final = 0.05
"""Pause after an error."""


class _Noted:
    """A span in the queue that has no slot, because it is on disk or lost."""

    __slots__ = ("span",)

    def __init__(self, span: ReadableSpan) -> None:
        self.span = span


class _RootCount:
    """Number of local roots in a growing list of spans; looks at each span once."""

    def __init__(self) -> None:
        self._seen = self._roots = 0

    def among(self, spans: Sequence[ReadableSpan]) -> int:
        """Count the local roots among the spans, which continue those of the last call."""
        self._roots += sum(map(is_local_root, spans[self._seen :]))
        self._seen = len(spans)
        return self._roots


# A tuple is a span that has a slot of the spill writer: zip() makes it inside one instruction.
_SpanItem = ReadableSpan | tuple[ReadableSpan] | _Noted
_Item = _SpanItem | FlushMark


def _span_of(item: _SpanItem) -> ReadableSpan:
    if isinstance(item, tuple):
        return item[0]
    return item.span if isinstance(item, _Noted) else item


class Collector:
    """The queue of ended spans; passes the spans of wanted traces to the sender in batches.

    ``add`` may be called by any thread, also inside a garbage collection or a signal handler that
    interrupted ``add`` in the same thread: it takes no lock and never waits. All spans here hold a
    slot, including spans that the filter holds back.

    The thread holds no reference to the processor, because the processor could then never be
    garbage collected. The thread is started at once, for the same reason as the sender's.

    Args:
        sender: Gets the spans of wanted traces, in the order in which they ended.
        batch_size: When this many spans wait, they are passed on at once.
        delay_seconds: The longest that a span waits for its batch to fill.
        most_traces: When this many local roots wait, they are passed on at once, too.
        traces: Holds spans until it is known whether their trace is wanted; None if all traces are.
        ended: Called by the thread for each span, with a slot or without, in the order of their
            ends; not for a local root without a slot.
        asgi_io: Finds the spans of single ASGI messages, which are dropped; None if they are kept.
        spool: Forgets the spans that the filter drops; None if there is no spool.
        too_late: Finds a place for a span that has a slot, but was added after `close`.
        spill: Gets the spans of wanted traces that have one of its slots and not one of the queue;
            None if there is no spool.
        look: Called by the thread at least once a second.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        slots: Slots,
        counters: Counters,
        log: RateLimitedLogger,
        batch_size: int,
        delay_seconds: float,
        most_traces: int,
        traces: TraceBuffer[Any] | None,
        ended: Callable[[ReadableSpan], object],
        asgi_io: AsgiIo | None,
        spool: Spool | None,
        too_late: Callable[[ReadableSpan], None],
        spill: SpillWriter | None,
        look: Callable[[], object] = lambda: None,
    ) -> None:
        self._look_after = look
        self._sender = sender
        self._slots = slots
        self._counters = counters
        self._log = log
        self._batch_size = batch_size
        self._delay = delay_seconds
        self._most_traces = most_traces
        # With fewer spans, there cannot be that many roots.
        self._first_look = min(batch_size, most_traces)
        self._traces = traces
        self._note_end = ended
        self._asgi_io = asgi_io
        self._spool = spool
        self._too_late = too_late
        self._spill = spill
        self.successor: Callable[[ReadableSpan], None] | None = None
        """Gets the spans that the filter still holds at the end, if the program goes on."""
        self._queue: deque[_Item] = deque()
        self._to_want: deque[int] = deque()
        self._to_refuse: deque[int] = deque()
        # Used by the thread that uses the filter. Counted, because a program may end a span twice.
        self._for_disk: Counter[int] = Counter()
        """Spans here that have a slot of the spill writer, by the ids of the objects."""
        self._most_noted = _NOTED + slots.capacity + (0 if spill is None else spill.capacity)
        self._revived: list[ReadableSpan] = []
        """Roots that were filtered, are wanted after all, and wait for a slot."""
        # From this queue length on, add() looks further: roots are to be counted, a batch is full,
        # or (at 0) the thread has ended.
        self._notable_length = self._first_look
        # Not a threading.Event: a signal handler may call put() inside put(), but not set() in
        # set(). True: pass on what waits. False: count the roots that wait.
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._woken = False
        self._closing = False
        self._ended = False
        # Guards the two flags below. Reentrant: a signal handler may call close() inside close().
        self._handover = threading.RLock()
        self._thread_is_done = False
        self._thread_ends_filter = False
        self._thread = threading.Thread(target=self._run, name="mlflow-bridge-filter", daemon=True)
        self._thread.start()

    @property
    def thread(self) -> threading.Thread:
        """The thread that makes batches."""
        return self._thread

    def add(self, spans: Iterable[_Item]) -> None:
        """Queue spans that have a slot, or take it as `Slots.claim` does.

        Raises:
            IndexError: No slot is free.
        """
        queue = self._queue
        queue.extend(spans)
        if len(queue) >= self._notable_length:
            self._look()

    def add_for_disk(self, once: Iterator[ReadableSpan]) -> None:
        """Queue spans that have a slot of the spill writer, which gets spans of wanted traces."""
        self.add(zip(once))

    def note(self, span: ReadableSpan) -> None:
        """Let the filter know of a span that has no slot: it is on disk, or lost."""
        # Without slots, only this bounds the memory if the thread gets no time to run.
        if len(self._queue) <= self._most_noted:
            self.add((_Noted(span),))

    def _look(self) -> None:
        if self._ended:
            # This span, and others, may have been added after close() had emptied the queue.
            spans, for_disk = self._taken_out()
            for span in spans:
                self._too_late(span)
            self._to_disk(for_disk)
        elif len(self._queue) < self._batch_size:
            self._look_from(self._batch_size)
            self._wake.put(False)
        elif not self._woken:
            self._wake_up()

    def _wake_up(self) -> None:
        self._woken = True
        self._wake.put(True)

    def _look_from(self, length: int) -> None:
        self._notable_length = length
        if self._ended:  # close() may have set it at this moment.
            self._notable_length = 0

    def wanted(self) -> list[int]:
        """Ids of the traces that are known to be wanted."""
        return [] if self._traces is None else self._traces.kept_traces()

    def want(self, traces: Sequence[int]) -> None:
        """Let these traces pass the filter."""
        if traces and self._traces is not None:
            self._to_want.extend(traces)
            self._wake_up()

    def refused(self) -> list[int]:
        """Ids of the traces that are known to be dropped for good."""
        return [] if self._traces is None else self._traces.refused_traces()

    def refuse(self, traces: Sequence[int]) -> None:
        """Let these traces not pass the filter, if there is a filter."""
        if traces and self._traces is not None:
            self._to_refuse.extend(traces)
            self._wake_up()

    @property
    def held(self) -> int:
        """Number of spans that the filter holds back while it has not decided on their traces."""
        return 0 if self._traces is None else self._traces.held

    def flush(self, seconds: float) -> bool:
        """Wait until all spans added before have been passed on, or are held by the filter.

        Args:
            seconds: The longest to wait.
        """
        if self._closing or threading.current_thread() is self._thread:
            return self._ended
        mark = FlushMark(0)
        self._queue.append(mark)
        if self._ended:
            self._look()
        self._wake_up()
        return mark.wait(seconds)

    def close(self, seconds: float) -> None:
        """Pass on the waiting spans, and end the thread. Spans added later go to ``too_late``.

        The filter decides on the traces of which it still holds spans, or the successor gets these
        spans.

        Args:
            seconds: The longest to wait for the thread.
        """
        self._closing = True
        self._wake_up()
        if threading.current_thread() is not self._thread:
            self._thread.join(max(seconds, 0.0))
        # In this order: a span that is added now is found below, or its thread sees _ended.
        self._ended = True
        self._notable_length = 0
        late, for_disk = self._taken_out(noting=True)
        with self._handover:
            # A thread that is not alive has died of an error.
            alive = self._thread.is_alive()
            self._thread_ends_filter = alive and not self._thread_is_done
        if self._thread_ends_filter:
            # The thread is still using the filter, so these spans are sent unfiltered.
            self._send(late)
            self._to_disk(for_disk)
            return
        self._for_disk.update(map(id, for_disk))
        self._pass_on([*late, *for_disk])
        self._end_filter()

    def _taken_out(self, *, noting: bool = False) -> tuple[list[ReadableSpan], list[ReadableSpan]]:
        """Take out the waiting spans; other threads may do so at the same time.

        Returns:
            The spans that have a slot of the queue, and those that have one of the spill writer.
        """
        spans: list[ReadableSpan] = []
        for_disk: list[ReadableSpan] = []
        while (item := self._take_out()) is not None:
            if isinstance(item, FlushMark):
                item.reach(complete=False)
                continue
            if noting:
                self._note(item)
            if isinstance(item, tuple):
                for_disk += item
            elif not isinstance(item, _Noted):
                spans.append(item)
        return spans, for_disk

    def _take_out(self) -> _Item | None:
        try:
            return self._queue.popleft()
        except IndexError:
            return None

    def _run(self) -> None:
        with suppress_instrumentation():
            while not self._closing:
                try:
                    self._await_batch()
                    self._pass_on_all()
                # BaseException: without this thread, no span would ever be delivered.
                except BaseException as error:
                    _logger.debug("The collector raised", exc_info=True)
                    reason = type(error).__name__
                    self._log.warning("thread", "Making batches raised %s. It goes on.", reason)
                    time.sleep(_RECOVERY_SECONDS)
            with self._handover:
                self._thread_is_done = True
            if self._thread_ends_filter:
                self._end_filter()

    def _await_batch(self) -> None:
        until = time.monotonic() + self._delay
        roots: _RootCount | None = None
        while True:
            self._look_after()
            left = until - time.monotonic()
            longest = _LOOK_SECONDS if roots is None else _COUNT_SECONDS
            try:
                if self._wake.get(timeout=max(min(left, longest), 0.0)):
                    break
                roots = roots or _RootCount()
            except Empty:
                if left <= longest:
                    break
            if roots is not None and roots.among(self._waiting()) >= self._most_traces:
                break
        self._look_from(self._first_look)
        # In any case: a signal handler may have interrupted _wake_up() before the put.
        self._woken = False

    def _pass_on_all(self) -> None:
        while self._pass_on_round() and self._queue:
            pass

    def _pass_on_round(self) -> bool:
        """Pass on all spans that wait now, and decide on traces. False if spans were taken out."""
        if self._traces is not None:
            self._traces.begin()
        if self._asgi_io is not None:
            self._asgi_io.begin(self._waiting)
        # Spans that had ended by then are among these; see TraceBuffer.begin.
        left = len(self._queue)
        marks: list[FlushMark] = []
        while left > 0 and (items := self._take_out_batch(left)):
            left -= len(items)
            marks += [item for item in items if isinstance(item, FlushMark)]
            own = (item for item in items if isinstance(item, ReadableSpan))
            self._counters.weigh(self._slots, own)
            self._pass_on([span for item in items for span in self._spans_of(item)])
        # Also for traces to which no span is added any more.
        if self._to_want or self._revived or self.held:
            self._pass_on((), concluding=True, without_wait=bool(marks))
        for mark in marks:
            mark.reach(complete=True)
        return left == 0

    def _take_out_batch(self, most: int) -> list[_Item]:
        """The next items; empty if another thread has taken all items out, at the end."""
        items: list[_Item] = []
        while len(items) < min(most, self._batch_size) and (item := self._take_out()) is not None:
            items.append(item)
        return items

    def _note(self, item: _SpanItem) -> None:
        span = _span_of(item)
        if is_annotation(span):
            return
        # A root on disk may be read in this process later, and is looked at then.
        if not (isinstance(item, _Noted) and is_local_root(span)):
            self._note_end(span)

    def _waiting(self) -> list[ReadableSpan]:
        """The spans that wait in the queue now."""
        # A single call into C, which no other thread interrupts.
        return [_span_of(item) for item in self._queue.copy() if not isinstance(item, FlushMark)]

    def _spans_of(self, item: _Item) -> Iterable[ReadableSpan]:
        """The span of an item that the filter is to divide."""
        if isinstance(item, FlushMark):
            return ()
        self._note(item)
        is_left_out = self._asgi_io is not None and self._asgi_io.is_left_out(_span_of(item))
        if isinstance(item, _Noted):
            if self._traces is not None:
                self._traces.note(item.span)
            return ()
        if isinstance(item, tuple):
            self._for_disk[id(item[0])] += 1
        if is_left_out:
            self._drop([_span_of(item)])
            return ()
        return (_span_of(item),)

    def _pass_on(
        self, spans: Sequence[ReadableSpan], *, concluding: bool = False, without_wait: bool = False
    ) -> None:
        """Give the sender the spans of wanted traces.

        Args:
            spans: The spans.
            concluding: Whether all spans have been added that had ended when `begin` was called.
            without_wait: As in `TraceBuffer.conclude`.
        """
        if self._traces is None:
            self._pass_on_sorted(Sorted(kept=[*spans]))
            return
        try:
            while self._to_want:
                self._traces.keep((self._to_want.popleft(),))
            while self._to_refuse:
                self._traces.refuse((self._to_refuse.popleft(),))
            self._pass_on_sorted(self._traces.add(spans))
            if concluding:
                self._pass_on_sorted(self._traces.conclude(without_wait=without_wait))
        # BaseException: a SystemExit would end this thread, and with it every later delivery.
        except BaseException as error:
            _logger.debug("The filter of traces raised", exc_info=True)
            self._lose(spans, error)

    def _pass_on_sorted(self, found: Sorted) -> None:
        self._drop(found.dropped)
        if found.parked:
            self._forget(found.parked)
            self._settle(found.parked, parked=True)
        kept = [*self._with_slot_again(found.revived), *found.kept]
        if self._spool is not None:
            self._spool.note_wanted(kept)
        for_disk = self._take_for_disk(kept)
        self._send(kept)
        self._to_disk(for_disk)

    def _take_for_disk(self, spans: list[ReadableSpan]) -> list[ReadableSpan]:
        """Take out those of the spans that have a slot of the spill writer."""
        if not self._for_disk:
            return []
        for_disk: list[ReadableSpan] = []
        others: list[ReadableSpan] = []
        for span in spans:
            count = self._for_disk.pop(id(span), 0)
            if count > 1:
                self._for_disk[id(span)] = count - 1
            (for_disk if count else others).append(span)
        spans[:] = others
        return for_disk

    def _to_disk(self, spans: Iterable[ReadableSpan]) -> None:
        for span in spans:
            assert self._spill is not None  # It has given a slot to the span.
            self._spill.take_over(span)

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if not self._sender.put(spans):
            for span in spans:
                self._too_late(span)

    def _with_slot_again(self, revived: Iterable[ReadableSpan]) -> list[ReadableSpan]:
        """Those of the roots that were filtered and are wanted after all that get a slot now."""
        self._revived += revived
        if not self._revived:
            return []
        ready = [root for root in self._revived if self._has_slot_again(root)]
        # The others wait. Memory is bounded: beyond this number, roots stay filtered.
        waiting = [root for root in self._revived if root not in ready]
        self._revived = waiting[-_REVIVED:]
        return ready

    def _has_slot_again(self, root: ReadableSpan) -> bool:
        """Take a slot for a filtered span that is wanted after all; False if no slot is free."""
        with self._counters.lock:
            slots = self._slots
            if not slots.try_take():
                if self._spill is None or not self._spill.room.try_take():
                    return False
                slots = self._spill.room
                self._for_disk[id(root)] += 1
            self._counters.weigh(slots, (root,))
            self._counters.add(filtered=-1)
            return True

    def _drop(self, spans: list[ReadableSpan]) -> None:
        if spans:
            self._forget(spans)
            self._settle(spans, filtered=True)

    def _settle(
        self,
        spans: Sequence[ReadableSpan],
        *,
        filtered: bool = False,
        parked: bool = False,
        dropped_for: str | None = None,
    ) -> None:
        """Free the slots of spans, and count the outcome, unless another processor does."""
        rest = [*spans]
        for_disk = self._take_for_disk(rest)
        for slots, settled in ((self._slots, rest), (self._room, for_disk)):
            if slots is not None and settled:
                self._counters.settle(
                    slots,
                    settled,
                    filtered=len(settled) * filtered,
                    parked=len(settled) * parked,
                    dropped=len(settled) * (dropped_for is not None),
                    dropped_for=dropped_for,
                )

    @property
    def _room(self) -> Slots | None:
        return None if self._spill is None else self._spill.room

    def _forget(self, spans: Sequence[ReadableSpan]) -> None:
        if self._spool is not None:
            self._spool.settled(spans)

    def _lose(self, spans: Sequence[ReadableSpan], error: BaseException) -> None:
        reason = f"the filter of traces raised {type(error).__name__}"
        self._settle(spans, dropped_for=type(error).__name__)
        self._counters.error(reason)
        self._log.warning("filter", "%d spans were lost: %s.", len(spans), reason)

    def _end_filter(self) -> None:
        # Otherwise a closed processor would keep all later processors alive.
        successor, self.successor = self.successor, None
        if self._traces is None:
            return
        found = self._traces.close(decides=successor is None)
        held = found.undecided
        self._pass_on_sorted(found)
        if successor is None:
            return
        for span in held:
            successor(span)
        # The successor counts these spans now.
        self._settle(held)
        self._forget(held)
