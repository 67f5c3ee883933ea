# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""How a processor hears of a fork and of the end of its process.

Nothing here keeps the processor alive.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Protocol

_MULTIPROCESSING_EXIT_PRIORITY = 10
"""Above 0, so that it runs at all, and before the pools and managers of the program (up to 0)."""


class EndsWithProcess(Protocol):
    """A processor that wants to know."""

    def after_fork(self) -> None:
        """Called in a forked child, in its only thread, before the program goes on."""
        ...

    def before_exit(self) -> None:
        """Called when the interpreter exits normally; the program's spans may still end after."""
        ...

    def before_child_exit(self) -> None:
        """Called at the end of a multiprocessing child, which runs no atexit handlers."""
        ...


def watch_process(processor: EndsWithProcess) -> None:
    """Call the processor's methods at the moments they name."""
    reference = weakref.ref(processor)

    def in_forked_child() -> None:
        if known := reference():
            known.after_fork()

    def at_exit() -> None:
        if known := reference():
            known.before_exit()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=in_forked_child)
    atexit.register(at_exit)
    _watch_multiprocessing(processor)


def _watch_multiprocessing(processor: EndsWithProcess) -> None:
    try:
        from multiprocessing import parent_process, util
    except ImportError:  # Not every platform has the semaphores that the package needs.
        return
    # A child forgets all finalizers when it starts, with every start method, and then runs what is
    # registered here: so the finalizer has to be set up in the child.
    # billiard, from which Celery forks, runs what is registered with multiprocessing.
    util.register_after_fork(processor, _set_finalizer)
    if parent_process() is not None:
        _set_finalizer(processor)


def may_be_killed_at_any_time() -> bool:
    """Whether this is a daemonic child of multiprocessing or billiard.

    Such are the workers of a ``multiprocessing.Pool``, which are killed where the pool ends as a
    context manager, and those of Celery, which leave by ``os._exit``. A spawned child knows it
    only after it has imported the program.
    """
    for name in ("multiprocessing", "billiard"):
        # None while another thread imports the package.
        current_process = getattr(sys.modules.get(name), "current_process", None)
        if current_process is not None and current_process().daemon:
            return True
    return False


def _set_finalizer(processor: EndsWithProcess) -> None:
    from multiprocessing import util

    reference = weakref.ref(processor)

    def at_child_exit() -> None:
        if known := reference():
            known.before_child_exit()

    util.Finalize(None, at_child_exit, exitpriority=_MULTIPROCESSING_EXIT_PRIORITY)
