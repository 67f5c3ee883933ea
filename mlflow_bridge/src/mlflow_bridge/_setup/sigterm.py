# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Delivery at SIGTERM, before the signal has its previous effect."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final
from weakref import WeakSet

from mlflow_bridge._delivery.registry import deliveries_before_exit, registered_processors

_logger = logging.getLogger(__name__)

_GRACE_SECONDS: Final = 1.0
"""Additional time that the handler waits, beyond the time limit of the processors."""

_Previous = Callable[[int, FrameType | None], Any] | int | None


class TerminationHandler:
    """Signal handler that delivers within ``exit_timeout_seconds`` and passes the signal on.

    Afterwards the previous handler is called: a function with the same arguments, or the default
    action, which ends the process as killed by SIGTERM. If the program handles or ignores the
    signal, it continues, and open spans stay open.

    If the interpreter is already exiting, delivery is under way and no thread can be started. The
    signal is then ignored once; a second signal gets the default action.

    Delivery runs in separate threads, since the signal may have interrupted code that holds a lock
    of the delivery. The handler waits for these threads.

    Args:
        previous: The result of ``signal.getsignal`` before this handler was set.
        exit_timeout_seconds: Longest time for the delivery.
    """

    def __init__(self, previous: _Previous, exit_timeout_seconds: float) -> None:
        self.previous = previous
        self.exit_timeout_seconds = exit_timeout_seconds
        self.owners: WeakSet[object] = WeakSet()
        """The processors that need this handler."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        ends = self.previous in (signal.SIG_DFL, None)
        exits = not threading.main_thread().is_alive()
        if not exits:
            self._deliver(ends)
        if callable(self.previous):
            self.previous(number, frame)
        elif ends:
            signal.signal(number, signal.SIG_DFL)
            if not exits:
                os.kill(os.getpid(), number)

    def _deliver(self, ends: bool) -> None:
        """Deliver by all processors at the same time, and wait for them."""
        millis = self.exit_timeout_seconds * 1000
        flushes = [partial(processor.force_flush, millis) for processor in registered_processors()]
        threads = [
            threading.Thread(target=deliver, name="mlflow-bridge-sigterm", daemon=True)
            for deliver in (deliveries_before_exit() if ends else flushes)
        ]
        until = time.monotonic() + self.exit_timeout_seconds + _GRACE_SECONDS
        for thread in [thread for thread in threads if _started(thread)]:
            thread.join(max(until - time.monotonic(), 0.0))


def _started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:  # The machine has no thread left. The signal is still passed on.
        _logger.warning(
            "SIGTERM could not deliver waiting spans: no thread can be started", exc_info=True
        )
        return False
    return True


def handle_sigterm(owner: object, exit_timeout_seconds: float) -> bool:
    """Put a `TerminationHandler` before the current handler of SIGTERM. May be repeated.

    Python allows only the main thread of the main interpreter to set a handler. In another thread
    this function only logs a warning.

    Args:
        owner: The object that needs the handler, which stays set until its last owner is gone.
        exit_timeout_seconds: Longest delay of the process's end by delivery.

    Returns:
        Whether a `TerminationHandler` is set.
    """
    current = signal.getsignal(signal.SIGTERM)
    if isinstance(current, TerminationHandler):
        current.exit_timeout_seconds = max(current.exit_timeout_seconds, exit_timeout_seconds)
        current.owners.add(owner)
        return True
    handler = TerminationHandler(current, exit_timeout_seconds)
    handler.owners.add(owner)
    try:
        signal.signal(signal.SIGTERM, handler)
    except ValueError:
        _logger.warning(
            "SIGTERM will not deliver waiting spans: a handler can be set in the main thread only "
            "(setting: flush_on_sigterm). Set up the delivery to MLflow in that thread."
        )
        return False
    return True


def leave_sigterm(owner: object) -> None:
    """Undo `handle_sigterm` for this owner, unless the program has set another handler since."""
    current = signal.getsignal(signal.SIGTERM)
    if not isinstance(current, TerminationHandler):
        return
    current.owners.discard(owner)
    if current.owners:
        return
    try:
        signal.signal(signal.SIGTERM, current.previous or signal.SIG_DFL)
    except ValueError:
        _logger.debug("The handler of SIGTERM stays set, since this is not the main thread")
