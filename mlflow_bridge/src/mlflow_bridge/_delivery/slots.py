# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Slots that limit how many spans may wait: a span takes one slot before it is queued."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, repeat
from typing import Any, Final, TypeVar

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._spans.span_size import size_of

_T = TypeVar("_T")

SECOND: Final[Callable[[object, Any], Any]] = dict[object, Any]().get
"""Gives its second argument. A function in C, so that no signal handler can run inside it."""


class Slots:
    """A fixed number of slots, taken by the threads of the program and given back by the sender.

    Taking and giving back are single deque operations and take no lock: a span may end inside a
    garbage collection or a signal handler that interrupted this code in the same thread.
    Only a thread that waits for a slot uses the condition.

    The slots bound the bytes of the spans, too. Each slot stands for its share of ``max_bytes``,
    and a larger span costs further slots, which are reserved when the span is weighed. The thread
    that ends a span does not weigh it, since most spans are smaller than that share.

    Args:
        capacity: Number of slots.
        max_bytes: The most bytes of the spans that have a slot.
    """

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self._capacity = capacity
        self._share = max(max_bytes // capacity, 1)
        self._extra: dict[int, int] = {}
        """Further slots of each large span, by the id of the object, which lives meanwhile."""
        self._owed = 0
        """Number of slots to reserve for large spans."""
        self._reserved = 0
        """Number of slots that are reserved."""
        self._free: deque[bool] = deque(repeat(True, capacity))
        self.takes = iter(self._free.pop, None)
        """Takes one slot at each step, and raises IndexError if none is free; see `claim`."""
        self._lock = threading.RLock()  # entered by itself, as in Sender
        self._given_back = threading.Condition(self._lock)
        self._waiters = 0
        self._stalled = False

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def used(self) -> int:
        """Number of spans that have a slot."""
        return self._capacity - len(self._free) - self._reserved

    @property
    def reserved(self) -> int:
        """Number of slots that are reserved, because spans are large."""
        return self._reserved

    def extra_of(self, span: ReadableSpan) -> int:
        """Number of slots that the size of a span costs, besides the slot that it has."""
        return min(size_of(span) // self._share, self._capacity - 1)

    def reserve(self, span: ReadableSpan, extra: int) -> None:
        """Reserve further slots of a span that has a slot.

        The callers of this method and of `release` hold the lock of the `Counters`. If too few
        slots are free, they are reserved as they are given back.
        """
        self._extra[id(span)] = self._extra.get(id(span), 0) + extra
        self._owed += extra
        self._reserve()

    def release(self, spans: Sequence[ReadableSpan]) -> int:
        """Free the slots of spans, and what is reserved for them, unless `give_back_all` has.

        Returns:
            The number of slots that spans had.
        """
        with self._lock:
            if self._extra:
                self._owed -= sum(self._extra.pop(id(span), 0) for span in spans)
                surplus = max(self._reserved - self._owed, 0)
                self._reserved -= surplus
                self.give_back(surplus)
            own = min(self.used, len(spans))
            self.give_back(own)
            self._reserve()
        return own

    def _reserve(self) -> None:
        while self._reserved < self._owed and self.try_take():
            self._reserved += 1

    def claim(self, item: _T) -> Iterator[_T]:
        """An iterator that takes a slot and then gives the item, once.

        `deque.extend` and `list.extend` consume it inside one instruction. So a signal handler
        finds the item either without a slot, or with a slot and in its place. To extend by the
        same iterator again is safe: it does what has not been done, unless it raised before.

        Raises:
            IndexError: No slot is free. The first step of the iterator raises it.
        """
        return islice(map(SECOND, self.takes, (item,)), 1)

    def try_take(self) -> bool:
        """Take a slot if one is free."""
        try:
            next(self.takes)
        except IndexError:
            return False
        return True

    def take_into(self, held: list[object]) -> bool:
        """Put a slot into a list if one is free, inside one instruction as `claim` does."""
        try:
            held.extend(self.claim(True))
        except IndexError:
            return False
        return True

    def take_within(self, seconds: float, held: list[object], *, leaving: int = 0) -> bool:
        """Put a slot into a list, waiting at most this long until more than ``leaving`` are free.

        When the time is up, any free slot is taken. After a wait without success, no thread waits
        again until slots are given back: an unavailable destination must not slow down every call
        of the program.
        """
        if self._take_but(leaving, held):
            return True
        with self._lock:
            if not self._stalled:
                self._waiters += 1
                try:
                    if self._given_back.wait_for(lambda: self._take_but(leaving, held), seconds):
                        return True
                finally:
                    self._waiters -= 1
                self._stalled = True
            return self.take_into(held)

    def _take_but(self, leaving: int, held: list[object]) -> bool:
        return len(self._free) > leaving and self.take_into(held)

    def give_back(self, count: int) -> None:
        """Free this many slots."""
        self._free.extend(repeat(True, count))
        if self._waiters or self._stalled:
            with self._lock:
                self._stalled = False
                self._given_back.notify_all()

    def give_back_all(self) -> int:
        """Free all slots, including slots that other threads hold. Returns their number."""
        with self._lock:
            used = self.used
            self.give_back(used)
        return used


class FlushMark:
    """A mark in a queue; reached when all spans before it are settled or passed on."""

    def __init__(self, lost_before: int) -> None:
        self.lost_before = lost_before
        self.is_annotated = False
        """Whether the annotations that waited before the mark have been tried."""
        self._reached = threading.Event()
        self._complete = False

    def reach(self, *, complete: bool) -> None:
        self._complete = complete
        self._reached.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the mark. True if it is reached in time and no span before it was lost."""
        return self._reached.wait(seconds) and self._complete
