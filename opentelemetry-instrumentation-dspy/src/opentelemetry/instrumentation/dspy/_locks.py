# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Locks of telemetry, which no thread of the program may ever be stuck in.

The garbage collector closes a coroutine of the program wherever it happens to run, and the traced
call in it ends there: maybe in a thread that holds the very lock which the end of a call wants.
And a fork copies a lock as it is, while the thread that would open it stays behind.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> Any:
    """A lock that its owner may take once more, and that is free in a forked child."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _free_all() -> None:
    for lock in list(_locks):
        # What Python's own modules do with theirs; there is no public way.
        reinitialize = getattr(lock, "_at_fork_reinit", None)
        if reinitialize is not None:
            reinitialize()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)
