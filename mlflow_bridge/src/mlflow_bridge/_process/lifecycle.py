# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""How a processor hears of a fork and of the end of its process.

Nothing here keeps the processor alive.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable
from weakref import WeakMethod

from mlflow_bridge._process.forks import call_in_child

_MULTIPROCESSING_EXIT_PRIORITY = 10
"""Above 0, so that it runs at all, and before the pools and managers of the program (up to 0)."""


def watch_process(
    processor: object,
    *,
    after_fork: Callable[[], object],
    before_exit: Callable[[], object],
    before_child_exit: Callable[[], object],
) -> None:
    """Call methods of a processor when its process forks or ends.

    Args:
        processor: Whose methods they are.
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

    # A child forgets all finalizers when it starts, with every start method, and then runs what is
    # registered here: so the finalizer has to be set up in the child.
    # billiard, from which Celery forks, runs what is registered with multiprocessing.
    util.register_after_fork(processor, set_finalizer)
    if parent_process() is not None:
        set_finalizer()


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
