# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""How our functions stand on the stack of the program: as frames of DSPy's, or not at all."""

from __future__ import annotations

import builtins
import functools
import inspect
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


def called_on_instance(method: Any) -> Any:
    """What stands in a class as a function that takes the instance first.

    A method that wrapt has decorated, by the program or by another instrumentation, looks like a
    function and has to be bound: called as one, its decorator is given no instance.
    """
    if type(method) is types.FunctionType or not inspect.isfunction(method):
        return method
    bound = _bound_async if inspect.iscoroutinefunction(method) else _bound
    return as_dspy_frame(bound(method), method)


def _bound(_method: Any) -> Any:
    _hide = hide_frame

    def bound(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return _method.__get__(self, type(self))(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise

    return bound


def _bound_async(_method: Any) -> Any:
    _hide = hide_frame

    async def bound(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            return await _method.__get__(self, type(self))(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise

    return bound
