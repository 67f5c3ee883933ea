# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The boundary between telemetry and the program: our errors and locks never affect it."""

from __future__ import annotations

import contextvars
import inspect
import itertools
import logging
import os
import threading
import traceback
import types
import weakref
from collections.abc import Callable
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation

logger = logging.getLogger(__name__)

_OURS = __name__.rpartition(".")[0]
_HANDLER_ARGUMENTS = 2


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
    """Run telemetry code; log what it raises once per kind and do not propagate it.

    Raises only what `is_programs` accepts.
    """
    try:
        action(*arguments)
    except BaseException as error:
        if is_programs(error):
            forget_our_frames(error)
            raise
        log_once(error)


def contain(error: BaseException) -> None:
    """Log an error of telemetry. Any other exception is raised again."""
    pass_on(error)
    log_once(error)


def pass_on(error: BaseException) -> None:
    """Raise an exception again that the program has to see. Call it where the error is caught."""
    if is_programs(error):
        raise error


def pass_by_value(error: BaseException) -> None:
    """Raise an exception again that a value of the program has not raised itself.

    The ``__repr__`` of a value, which only telemetry calls, may raise SystemExit or CancelledError.
    """
    if isinstance(error, KeyboardInterrupt) or raised_by_signal(error):
        raise error


def call_untraced(function: Callable[[Any], Any], value: Any) -> Any:
    """Call a function of a setting, which may call DSPy itself, without recording what it does."""
    # In a copy of all context variables: there is nothing to restore if a signal handler raises.
    return contextvars.copy_context().run(_call_suppressed, function, value)


def _call_suppressed(function: Callable[[Any], Any], value: Any) -> Any:
    context_api.attach(Context({**context_api.get_current(), **_SUPPRESSION}))
    return function(value)


def _suppression() -> Context:
    with suppress_instrumentation():
        return context_api.get_current()


_SUPPRESSION = contextvars.Context().run(_suppression)
"""What `suppress_instrumentation` sets."""


def forget_our_frames(error: BaseException) -> None:
    """Remove the frames of telemetry from the traceback of an exception that `is_programs`.

    A bare ``raise`` uses the shortened traceback from Python 3.11 on; on 3.10 the frames stay.
    """
    BaseException.with_traceback(error, _raised_at(error))


def is_programs(error: BaseException) -> bool:
    """Whether an exception that passed through telemetry is not a mistake of telemetry.

    Such an exception stops the program (KeyboardInterrupt, SystemExit, ...), or comes from a signal
    handler that ran while telemetry was at work: a time limit of Celery or RQ, for example.
    """
    return not isinstance(error, Exception) or raised_by_signal(error)


def raised_by_signal(error: BaseException) -> bool:
    """Whether a signal handler of the program raised the exception.

    The interpreter runs such a handler between two steps of any other code, and what the handler
    raises appears to come from that code. A boundary that contains errors must let it pass.
    """
    return _handler_step(error) is not None


def _handler_step(error: BaseException) -> types.TracebackType | None:
    """The step of the traceback at which a signal handler was called."""
    step = error.__traceback__
    while step is not None:
        if _is_signal_handler(step.tb_frame):
            return step
        step = step.tb_next
    return None


def _is_signal_handler(frame: types.FrameType) -> bool:
    """Whether the interpreter called this frame with the number of a signal and its caller."""
    caller, code = frame.f_back, frame.f_code
    takes_more = bool(code.co_flags & inspect.CO_VARARGS)
    if caller is None or (code.co_argcount < _HANDLER_ARGUMENTS and not takes_more):
        return False
    names = code.co_varnames[: code.co_argcount]
    values = [frame.f_locals.get(name) for name in names]
    if takes_more:
        values += frame.f_locals.get(
            code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ()
        )
    # A method has the instance before them. isinstance() would run code of the values.
    return any(
        item is caller and issubclass(type(number), int)
        for number, item in itertools.pairwise(values)
    )


def _raised_at(error: BaseException) -> types.TracebackType | None:
    """The traceback from the signal handler on, or after the last frame of telemetry."""
    found = _handler_step(error)
    if found is not None:
        return found
    step = last = error.__traceback__
    while step is not None:
        if str(step.tb_frame.f_globals.get("__name__")).startswith(_OURS):
            last = step.tb_next
        step = step.tb_next
    return last


_logged: set[tuple[str, str]] = set()
_logged_lock = new_lock()


def log_once(error: BaseException) -> None:
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
