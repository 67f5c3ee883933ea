# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Log lines that cannot flood a log."""

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
    """Warnings, at most one with each key in ``interval`` seconds. Called from any thread.

    The lock is reentrant because a warning may be raised by a span that ends in a garbage
    collection, in the thread that holds it.
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
        """In a forked child: the thread that held the lock is the parent's."""
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
