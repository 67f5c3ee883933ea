# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A logger that cannot flood a log with warnings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from mlflow_bridge._process.forks import call_in_child


@dataclass
class _Key:
    next_at: float
    held_back: int = 0


class RateLimitedLogger:
    """A logger of at most one warning with each key in ``interval`` seconds. Thread-safe.

    The lock is reentrant: a span may end in a garbage collection, and log a warning, in the thread
    that holds the lock.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        interval: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval = interval
        self._clock = clock
        self._lock = threading.RLock()
        self._keys: dict[str, _Key] = {}
        call_in_child(self._renew_lock)

    def _renew_lock(self) -> None:
        """Replace the lock in a forked child, where the thread that held it does not exist."""
        self._lock = threading.RLock()

    def warning(self, key: str, message: str, *args: object) -> None:
        """Log the warning, or count it towards the next warning with the same key."""
        now = self._clock()
        with self._lock:
            known = self._keys.get(key)
            if known is not None and now < known.next_at:
                known.held_back += 1
                return
            held_back = known.held_back if known is not None else 0
            self._keys[key] = _Key(now + self._interval)
        if held_back:
            message += " (and %d more like this before)"
            args = (*args, held_back)
        self._logger.warning(message, *args)
