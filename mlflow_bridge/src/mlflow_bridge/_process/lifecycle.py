# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls to a processor when its process forks or ends.

Nothing here keeps the processor alive.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from weakref import WeakMethod

from mlflow_bridge._process.forks import call_in_child

_MULTIPROCESSING_EXIT_PRIORITY = 10
"""Not below 0, so that the finalizer runs before multiprocessing ends the child's own children;
above 0, so that it runs before the program's managers."""


def watch_process(
    processor: object,
    *,
    after_fork: Callable[[], object],
    before_exit: Callable[[], object],
    before_child_exit: Callable[[], object],
) -> None:
    """Call methods of a processor when its process forks or ends.

    Args:
        processor: The owner of the methods.
        after_fork: Called in a forked child, in its only thread, before the program goes on.
        before_exit: Called when the interpreter exits normally; the program's spans may still end
            after it.
        before_child_exit: Called at the end of a multiprocessing child, which runs no atexit
            handlers.
    """
    call_in_child(after_fork)
    atexit.register(_weakly(before_exit))
    _watch_multiprocessing(processor, _weakly(before_child_exit))


def _weakly(method: Callable[[], object]) -> Callable[[], None]:
    reference = WeakMethod(method)

    def call() -> None:
        if known := reference():
            known()

    return call


def _watch_multiprocessing(processor: object, before_child_exit: Callable[[], None]) -> None:
    try:
        from multiprocessing import parent_process, util
    except ImportError:  # Not every platform has the semaphores that the package needs.
        return

    def set_finalizer(_processor: object = None) -> None:
        util.Finalize(None, before_child_exit, exitpriority=_MULTIPROCESSING_EXIT_PRIORITY)

    # With every start method, a child first forgets all finalizers, and then runs the functions
    # that are registered here: so the finalizer has to be set up in the child.
    # billiard, with which Celery forks, runs the functions registered with multiprocessing.
    util.register_after_fork(processor, set_finalizer)
    if parent_process() is not None:
        set_finalizer()


def may_be_killed_at_any_time() -> bool:
    """Whether this is a daemonic child of multiprocessing or billiard.

    Examples are the workers of a ``multiprocessing.Pool``, which are killed at the end of the
    pool's ``with`` block, and workers of Celery, which exit by ``os._exit``. A spawned child knows
    that it is daemonic only after it has imported the program.
    """
    for name in ("multiprocessing", "billiard"):
        # None while another thread imports the package.
        current_process = getattr(sys.modules.get(name), "current_process", None)
        if current_process is not None and current_process().daemon:
            return True
    return False
