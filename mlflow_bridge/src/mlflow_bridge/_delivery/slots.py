# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Slots that limit how many spans may wait: a span takes one slot before it is queued."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from itertools import repeat


class Slots:
    """A fixed number of slots, taken by the threads of the program and given back by the sender.

    Taking and giving back are single deque operations and take no lock: a span may end inside a
    garbage collection or a signal handler that interrupted this code in the same thread.
    Only a thread that waits for a slot uses the condition.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._free: deque[None] = deque(repeat(None, capacity))
        # The deque's own method: saves one Python call for each span.
        self.take: Callable[[], None] = self._free.pop
        """Take a slot; IndexError if none is free."""
        self._given_back = threading.Condition()
        self._waiters = 0
        self._stalled = False

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def used(self) -> int:
        return self._capacity - len(self._free)

    def try_take(self) -> bool:
        """Take a slot if one is free."""
        try:
            self.take()
        except IndexError:
            return False
        return True

    def take_within(self, seconds: float, *, leaving: int = 0) -> bool:
        """Take a slot, waiting at most this long until more than ``leaving`` are free.

        When the time is up, any free slot is taken. After a wait without success, no thread waits
        again until slots are given back: an unavailable destination must not slow down every call
        of the program.
        """
        if self._take_but(leaving):
            return True
        with self._given_back:
            if not self._stalled:
                self._waiters += 1
                try:
                    if self._given_back.wait_for(lambda: self._take_but(leaving), seconds):
                        return True
                finally:
                    self._waiters -= 1
                self._stalled = True
            return self.try_take()

    def _take_but(self, leaving: int) -> bool:
        return len(self._free) > leaving and self.try_take()

    def give_back(self, count: int) -> None:
        """Free this many slots."""
        self._free.extend(repeat(None, count))
        if self._waiters or self._stalled:
            with self._given_back:
                self._stalled = False
                self._given_back.notify_all()

    def give_back_all(self) -> int:
        """Free all slots, including slots that other threads hold. Returns their number."""
        with self._given_back:
            used = self.used
            self.give_back(used)
        return used

    def give_back_own(self, count: int) -> int:
        """Free slots, unless `give_back_all` has freed them. Returns how many are freed now."""
        with self._given_back:
            own = min(self.used, count)
            self.give_back(own)
        return own


class FlushMark:
    """A mark in a queue; reached when all spans before it are settled or passed on."""

    def __init__(self, lost_before: int) -> None:
        self.lost_before = lost_before
        self._reached = threading.Event()
        self._complete = False

    def reach(self, *, complete: bool) -> None:
        self._complete = complete
        self._reached.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the mark. True if it is reached in time and no span before it was lost."""
        return self._reached.wait(seconds) and self._complete
