# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A registry of functions that renew locks, threads and files in a forked child.

A fork copies locks, threads and open files as they are. A lock that another thread holds at that
moment is never released in the child, where that thread does not exist. So each module registers a
function that makes such objects again. The child calls all functions before the program goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from itertools import count
from types import MethodType
from typing import Final
from weakref import ref

_logger: Final = logging.getLogger(__name__)

_Callback = Callable[[], object]
# In the order of registration, like os.register_at_fork. By number, so that a garbage collection
# can remove a callback at any moment with one operation.
_callbacks: Final[dict[int, Callable[[], _Callback | None]]] = {}
_numbers: Final = count()


def call_in_child(callback: Callable[[], object]) -> None:
    """Have a forked child call a function, in its only thread, before the program goes on.

    Args:
        callback: The function. A bound method is held weakly: its object stays collectable, and the
            registration ends with the object.
    """
    number = next(_numbers)
    if isinstance(callback, MethodType):
        _callbacks[number] = _weakly(callback, number)
    else:
        _callbacks[number] = lambda: callback


def _weakly(method: MethodType, number: int) -> Callable[[], _Callback | None]:
    # Not by WeakMethod, which prints an error if it is freed before the class of its object, as
    # happens to a module's own object when the interpreter shuts down.
    callbacks = _callbacks
    owner = ref(method.__self__, lambda _: callbacks.pop(number, None))
    function = method.__func__

    def current() -> _Callback | None:
        found = owner()
        return None if found is None else MethodType(function, found)

    return current


def _call_all() -> None:
    for reference in list(_callbacks.values()):
        callback = reference()
        if callback is None:
            continue
        try:
            callback()
        except Exception:  # The other callbacks matter as much, and the program must go on.
            _logger.exception("A forked process could not renew a part of mlflow-bridge")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_call_all)
