# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""How our functions appear on the program's stack: as frames of DSPy, or not at all."""

from __future__ import annotations

import builtins
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, TypeVar

from opentelemetry.instrumentation.dspy._guarding import pass_on

_FRAME_GLOBALS = {"__name__": "dspy.opentelemetry", "__builtins__": builtins}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def pickled_by_value(function: _Function) -> _Function:
    """Mark a function that is part of the closure of a traced method.

    cloudpickle serialises a bound method of a class of ``__main__`` by value, together with what
    the traced function uses. Pickled by reference, that could only be loaded where this package
    is installed.
    """
    function.__module__ = str(_FRAME_GLOBALS["__name__"])  # a module that cannot be imported
    return function


@pickled_by_value
def hide_frame(error: BaseException) -> None:
    """Remove the frame of the caller, which is about to re-raise, and ours below it.

    ReAct and others put tracebacks into prompts, and so into DSPy's cache keys: a frame of ours
    would change both. A bare ``raise`` uses the shortened traceback from Python 3.11 on; on 3.10
    the frame stays.
    """
    step = error.__traceback__
    if step is None:
        return
    step = step.tb_next
    ours = "opentelemetry.instrumentation.dspy."
    while step is not None and str(step.tb_frame.f_globals.get("__name__")).startswith(ours):
        step = step.tb_next
    # Called on the class: an exception may be frozen or override the method.
    BaseException.with_traceback(error, step)


def as_dspy_frame(function: Any, original: Callable[..., Any]) -> Any:
    """``function`` with the metadata of ``original``, appearing on the stack as a frame of DSPy.

    DSPy attributes deprecation warnings to the first frame whose module is not ``dspy.*``, and
    searches callers' frames for the types named in a string signature. So ``function`` may use
    no globals, and its local variables must not be named like types.
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
    except Exception as error:
        pass_on(error)
        # A callable object of the program, such as a metric, may have a name that a function
        # cannot have. The copied metadata is then incomplete.
        return copy


def called_on_instance(method: Any) -> Any:
    """An attribute of a class as a function that takes the instance first.

    A method decorated with wrapt, by the program or another instrumentation, looks like a
    function but must be bound: called as a function, its decorator receives no instance.
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
