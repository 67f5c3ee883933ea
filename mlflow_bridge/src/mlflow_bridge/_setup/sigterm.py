# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Delivery at SIGTERM, before the signal has its previous effect.

A handler of this module stands in front of the handler that it finds, or of the default action. It
stays in front of the default action for as long as a processor needs it: a web server may put the
default action back at the end of its work, and raise the signal that it has handled again. Without
a handler in that place the process would be killed, and no function of `atexit` would run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Final
from weakref import WeakKeyDictionary

from mlflow_bridge._delivery.admission import runs_event_loop
from mlflow_bridge._delivery.registry import deliveries_before_exit, registered_processors
from mlflow_bridge._export.exporter import completions
from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._process.lifecycle import may_be_killed_at_any_time

_logger = logging.getLogger(__name__)

_GRACE_SECONDS: Final = 1.0
"""Additional time that the handler waits, beyond the time limit of the processors."""

_DAEMONIC_SECONDS: Final = 1.0
"""Longest wait in a daemonic child, whose spans are on disk, and whose parent waits for its end."""

_CHECK_SECONDS: Final = 0.05
"""How often the handler, while it waits, checks for a second signal."""

_Previous = Callable[[int, FrameType | None], Any] | int | None

_needed_by: WeakKeyDictionary[object, float] = WeakKeyDictionary()
"""The processors that need the handler, each with its ``exit_timeout_seconds``."""

_parent_delivers: Final = threading.Event()
"""Set if this process is the fork of a process that has such a processor."""


class TerminationHandler:
    """Signal handler that delivers within ``exit_timeout_seconds`` and passes the signal on.

    Afterwards the previous handler is called: a function with the same arguments, or the default
    action, which ends the process as killed by SIGTERM. If the program handles or ignores the
    signal, it continues, and open spans stay open. A second signal is passed on at once.

    If the signal has interrupted an event loop whose program handles it, delivery begins and the
    handler of the program is called at once, so that the loop can answer its requests.

    If the interpreter is already exiting, delivery is under way and no thread can be started. The
    signal is then ignored once; a second signal gets the default action.

    Delivery runs in separate threads, since the signal may have interrupted code that holds a lock
    of the delivery. The handler waits for these threads.

    The signal table of the process must hold the only lasting reference to the handler: the handler
    notices by its deletion that the program has set another one.

    Args:
        previous: The result of ``signal.getsignal`` before this handler was set.
    """

    def __init__(self, previous: _Previous) -> None:
        self.previous = previous
        self.returns = False
        """Whether the handler is set again when the program replaces it by the default action."""
        self._is_delivering = False
        self._is_interrupted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        exits = not threading.main_thread().is_alive()
        if self._is_delivering:
            self._is_interrupted = True
        elif not exits and (seconds := _longest_wait()):
            self._is_delivering = True
            try:
                self._deliver(time.monotonic() + seconds)
            finally:
                self._is_delivering = self._is_interrupted = False
        if callable(self.previous):
            self.previous(number, frame)
        elif self.previous == signal.SIG_DFL:
            self.returns = False
            signal.signal(number, signal.SIG_DFL)
            if not exits:
                os.kill(os.getpid(), number)

    def _deliver(self, until: float) -> None:
        """Deliver by all processors at the same time, and wait for them."""
        ends = self.previous == signal.SIG_DFL
        millis = max(_needed_by.values(), default=0.0) * 1000
        flushes = [partial(processor.force_flush, millis) for processor in registered_processors()]
        threads = [
            threading.Thread(target=deliver, name="mlflow-bridge-sigterm", daemon=True)
            for deliver in (deliveries_before_exit() if ends else flushes)
        ]
        started = [thread for thread in threads if _started(thread)]
        if ends or not runs_event_loop():
            self._wait(started, until)
        if ends:
            self._complete_traces(until)

    def _complete_traces(self, until: float) -> None:
        """Complete the traces that wait for a remote caller, since this process can do it now only.

        At other ends of a process, the exporters do this when they are closed.
        """
        seconds = max(until - time.monotonic(), 0.0)
        threads = [
            threading.Thread(
                target=complete, args=(seconds,), name="mlflow-bridge-sigterm", daemon=True
            )
            for complete in completions()
        ]
        self._wait([thread for thread in threads if _started(thread)], until)

    def _wait(self, threads: list[threading.Thread], until: float) -> None:
        """Wait for these threads, until a time or a second signal."""
        for thread in threads:
            while thread.is_alive() and not self._is_interrupted:
                left = until - time.monotonic()
                if left <= 0:
                    return
                thread.join(min(left, _CHECK_SECONDS))

    def __del__(self) -> None:
        """Return in front of the default action if the program has put it in place of this handler.

        This runs inside the call of ``signal.signal`` that replaces this handler, so no signal
        comes in between that the same thread raises next.
        """
        try:
            if not self.returns or not _needed_by or sys.is_finalizing():
                return
            if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                _install()
        except Exception:  # Not in the main thread, or modules are being torn down.
            return


def _longest_wait() -> float:
    """How long the handler may wait for the delivery, in seconds; 0 if nothing is to be sent."""
    if not may_be_killed_at_any_time():
        processors = registered_processors()
        imports = max((getattr(one, "import_seconds", 0.0) for one in processors), default=0.0)
        return max(_needed_by.values(), default=0.0) + imports + _GRACE_SECONDS
    return 0.0 if _parent_delivers.is_set() else _DAEMONIC_SECONDS


def _started(thread: threading.Thread) -> bool:
    try:
        thread.start()
    except RuntimeError:  # The machine has no thread left. The signal is still passed on.
        _logger.warning(
            "SIGTERM could not deliver waiting spans: no thread can be started", exc_info=True
        )
        return False
    return True


def handle_sigterm(owner: object, exit_timeout_seconds: float, *, is_asked_for: bool) -> bool:
    """Put a `TerminationHandler` before the current handler of SIGTERM. May be repeated.

    Python allows only the main thread of the main interpreter to set a handler. In another thread
    this function only logs that it cannot. A handler that is not Python's cannot be called from
    here, and stays alone.

    Args:
        owner: The object that needs the handler, which stays set until its last owner is gone.
        exit_timeout_seconds: Longest delay of the process's end by delivery.
        is_asked_for: Whether the program has set ``flush_on_sigterm``, and is warned if the
            handler cannot be set.

    Returns:
        Whether a `TerminationHandler` is set.
    """
    _needed_by[owner] = exit_timeout_seconds
    try:
        return _install()
    except ValueError:
        _logger.log(
            logging.WARNING if is_asked_for else logging.INFO,
            "SIGTERM will not deliver waiting spans: a handler can be set in the main thread only "
            "(setting: flush_on_sigterm). Set up the delivery to MLflow in that thread.",
        )
        return False


def _install() -> bool:
    """Set a handler unless one is set.

    Raises:
        ValueError: This is not the main thread.
    """
    current = signal.getsignal(signal.SIGTERM)
    if current is None:
        return False
    if not isinstance(current, TerminationHandler):
        handler = TerminationHandler(current)
        signal.signal(signal.SIGTERM, handler)
        handler.returns = True
    return True


def _install_in_child() -> None:
    """Set the handler again in a forked child: its parent may have replaced the handler.

    A preloading server sets its own handlers, and its children put the default action back.
    """
    if _needed_by:
        _parent_delivers.set()
        _install()


call_in_child(_install_in_child)

_fork = threading.local()


def _hold_signal() -> None:
    """Let SIGTERM wait while this thread forks.

    In a child, the interpreter forgets the signals for which it was to call a handler. A child that
    is terminated at once, as by ``multiprocessing.Pool``, would go on for ever. Without a handler,
    the system would have killed it.
    """
    if _needed_by:
        _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release_signal() -> None:
    mask, _fork.mask = getattr(_fork, "mask", None), None
    if mask is not None and signal.SIGTERM not in mask:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


if hasattr(os, "register_at_fork") and hasattr(signal, "pthread_sigmask"):
    os.register_at_fork(
        before=_hold_signal, after_in_parent=_release_signal, after_in_child=_release_signal
    )


def leave_sigterm(owner: object) -> None:
    """Undo `handle_sigterm` for this owner, unless the program has set another handler since."""
    _needed_by.pop(owner, None)
    current = signal.getsignal(signal.SIGTERM)
    if _needed_by or not isinstance(current, TerminationHandler):
        return
    try:
        signal.signal(signal.SIGTERM, current.previous)
    except ValueError:
        _logger.debug("The handler of SIGTERM stays set, since this is not the main thread")
