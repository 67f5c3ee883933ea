# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""How our functions stand on the stack of the program: as frames of DSPy's, or not at all."""

from __future__ import annotations

import builtins
import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

_FRAME_GLOBALS = {"__name__": "dspy.opentelemetry", "__builtins__": builtins}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def pickled_by_value(function: _Function) -> _Function:
    """Marks a function that stands in the closure of a traced method.

    cloudpickle takes a bound method of a class of ``__main__`` by value, and with it what the
    traced function uses. By reference, that could only be loaded where this package is installed.
    """
    function.__module__ = str(_FRAME_GLOBALS["__name__"])  # a module that nobody can import
    return function


@pickled_by_value
def hide_frame(error: BaseException) -> None:
    """Take the frame that calls this, which is about to re-raise, out of the traceback.

    ReAct and others put tracebacks into prompts, and so into DSPy's cache keys: a frame of ours
    would change both. A bare ``raise`` takes the shortened traceback from Python 3.11 on; on 3.10
    the frame stays.
    """
    if error.__traceback__ is not None:
        # Called on the class: an exception may be frozen or override the method.
        BaseException.with_traceback(error, error.__traceback__.tb_next)


def as_dspy_frame(function: Any, original: Callable[..., Any]) -> Any:
    """``function`` in the guise of ``original``, seen on the stack as one more frame of DSPy's.

    DSPy attributes deprecation warnings to the first frame whose module is not ``dspy.*``, and
    looks through callers' frames for the types named in a string signature. So ``function`` may
    use no globals, and its locals must have names that no type has.
    """
    copy = types.FunctionType(
        function.__code__,
        _FRAME_GLOBALS,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    try:
        return functools.update_wrapper(copy, original)
    except Exception:
        # An object of the program's own, such as a metric, may be called without having a name that
        # a function can have. Then the guise is incomplete.
        return copy
