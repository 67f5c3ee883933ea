# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""SIGTERM: deliver first, then do what would have been done."""

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
"""How much longer than the processors' own bound the handler waits for them."""

_Previous = Callable[[int, FrameType | None], Any] | int | None


class TerminationHandler:
    """Delivers within the time that an exit may take, and passes the signal on.

    What was there before is called afterwards: a function with the same arguments, or the default
    action, by which the process ends as killed by SIGTERM. Where the program handles the signal
    itself, or ignores it, it goes on: then spans that are open stay so.

    A process that is about to exit delivers already, in bounded time, and Python starts no further
    thread for it. There the signal ends nothing; a second one has the default action.

    Delivery runs in threads of its own, which are waited for: the signal may have interrupted code
    that holds a lock which delivery needs.

    Args:
        previous: What ``signal.signal`` returned.
        exit_timeout_seconds: The longest to wait.
    """

    def __init__(self, previous: _Previous, exit_timeout_seconds: float) -> None:
        self.previous = previous
        self.exit_timeout_seconds = exit_timeout_seconds
        self.owners: WeakSet[object] = WeakSet()
        """The processors that want it."""

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
        """Have every processor deliver at the same time, and wait for them."""
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
    except RuntimeError:  # The machine has no thread left; the signal is passed on all the same.
        _logger.warning("SIGTERM could not deliver what waits", exc_info=True)
        return False
    return True


def handle_sigterm(owner: object, exit_timeout_seconds: float) -> bool:
    """Put a `TerminationHandler` before whatever handles SIGTERM now. May be repeated.

    Python lets only the main thread of the main interpreter set a handler. From another thread
    nothing is done, and a warning says so.

    Args:
        owner: Wants it. The handler stays for as long as an owner is left.
        exit_timeout_seconds: The longest that delivery may delay the end.

    Returns:
        Whether a handler is there.
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
            "SIGTERM will not deliver what waits: a handler can be set in the main thread only "
            "(setting: flush_on_sigterm). Set the delivery to MLflow up there."
        )
        return False
    return True


def leave_sigterm(owner: object) -> None:
    """Undo `handle_sigterm` for this owner, unless another handler has been set since."""
    current = signal.getsignal(signal.SIGTERM)
    if not isinstance(current, TerminationHandler):
        return
    current.owners.discard(owner)
    if current.owners:
        return
    try:
        signal.signal(signal.SIGTERM, current.previous or signal.SIG_DFL)
    except ValueError:
        _logger.debug("The handler for SIGTERM stays: this is not the main thread")
