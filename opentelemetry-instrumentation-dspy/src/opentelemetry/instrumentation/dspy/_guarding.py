# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The boundary between telemetry and the program: our errors and locks never affect it."""

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
    """A re-entrant lock that is released in a forked child.

    Telemetry must never block a thread of the program. The garbage collector may close a
    coroutine on any thread, which ends the traced call in it, possibly on the thread that already
    holds the lock. And a fork copies a held lock without the thread that would release it.
    """
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def _free_all() -> None:
    for lock in list(_locks):
        # The standard library reinitialises its own locks this way; there is no public API.
        reinitialize = getattr(lock, "_at_fork_reinit", None)
        if reinitialize is not None:
            reinitialize()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)


def guarded(action: Callable[..., Any], *arguments: Any) -> None:
    """Run telemetry code; log what it raises once per kind and do not propagate it."""
    try:
        action(*arguments)
    except Exception as error:
        log_once(error)


_logged: set[tuple[str, str]] = set()
_logged_lock = new_lock()


def log_once(error: Exception) -> None:
    """Log an error of telemetry, unless the same kind was logged from the same line before."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    # By name: the class of an error may be the program's, and keep its module alive.
    kind = (type(error).__qualname__, place)
    with _logged_lock:
        if kind in _logged:
            return
        _logged.add(kind)
    # Without the message, which may contain the program's data.
    logger.warning(
        "Tracing of a DSPy call is incomplete; the call itself is not affected. "
        "This is reported once per cause. %s raised at:\n%s",
        type(error).__name__,
        "".join(traceback.format_list(frames)),
    )
