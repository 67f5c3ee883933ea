# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A guard that delays a fork while another thread may hold a lock that the child needs.

A fork copies locks as they are. A lock that another thread holds at that moment (in MLflow,
SQLAlchemy, SQLite or the import system) is never released in the child, where that thread does not
exist.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

_LONGEST_WAIT_SECONDS: Final = 10.0
"""Longer than a write or the creation of a store; a database that hangs may take longer."""


class ForkGuard:
    """A guard that makes a fork wait for threads inside, for at most 10 seconds. Thread-safe."""

    def __init__(self, longest_wait: float = _LONGEST_WAIT_SECONDS) -> None:
        self._longest_wait = longest_wait
        self._stranded = False
        self._forking = 0
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._inside: list[int] = []

    def watch(self) -> None:
        """Guard this process from now on: the interpreter calls the methods below at each fork."""
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self.before, after_in_parent=self.in_parent, after_in_child=self.in_child
            )

    @property
    def stranded(self) -> bool:
        """Whether this process was forked although another thread was inside."""
        return self._stranded

    @contextmanager
    def inside(self) -> Generator[None, None, None]:
        """Delay forks by other threads until the block has ended."""
        me = threading.get_ident()
        with self._changed:
            # A thread that is inside already must not wait for the fork that waits for it.
            self._changed.wait_for(lambda: not self._forking or me in self._inside)
            self._inside.append(me)
        changed = self._changed
        try:
            yield
        finally:
            # Not in a child that this thread forked in the block: in_child() has made a new list.
            if changed is self._changed:
                with changed:
                    self._inside.remove(me)
                    changed.notify_all()

    def before(self) -> None:
        until = time.monotonic() + self._longest_wait
        with self._changed:
            self._forking += 1
            while self._others() and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _others(self) -> bool:
        me = threading.get_ident()
        return any(thread != me for thread in self._inside)

    def in_parent(self) -> None:
        with self._changed:
            self._forking -= 1
            self._changed.notify_all()

    def in_child(self) -> None:
        self._stranded = self._stranded or self._others()
        self._forking = 0
        self._begin()
