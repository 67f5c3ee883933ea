# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The boundary between telemetry and the program: errors and locks of ours stay on our side."""

from __future__ import annotations

import logging
import os
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any

logger = logging.getLogger(__name__)


_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> Any:
    """A lock that its owner may take once more, and that is free in a forked child.

    No thread of the program may ever be stuck in a lock of telemetry. The garbage collector closes
    a coroutine of the program wherever it happens to run, and the traced call in it ends there:
    maybe in a thread that holds the very lock which the end of a call wants. And a fork copies a
    lock as it is, while the thread that would open it stays behind.
    """
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


def guarded(action: Callable[..., Any], *arguments: Any) -> None:
    """Run telemetry code; what it raises is logged once per kind and goes no further."""
    try:
        action(*arguments)
    except Exception as error:
        log_once(error)


_logged: set[tuple[type, str]] = set()
_logged_lock = new_lock()


def log_once(error: Exception) -> None:
    """Log what telemetry raised, unless the same was logged from the same place before."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    kind = (type(error), place)
    with _logged_lock:
        if kind in _logged:
            return
        _logged.add(kind)
    # Without the message, which may well be made of the program's data.
    logger.warning(
        "Tracing of a DSPy call is incomplete; the call itself is not affected. "
        "This is reported once per cause. %s raised at:\n%s",
        type(error).__name__,
        "".join(traceback.format_list(frames)),
    )
