# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What takes the place of a method of DSPy: a plain function that makes its span."""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from opentelemetry.instrumentation.dspy._calls.begin import begin_call
from opentelemetry.instrumentation.dspy._calls.call import Call, Operation, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import (
    as_dspy_frame,
    hide_frame,
    pickled_by_value,
)
from opentelemetry.instrumentation.dspy._guarding import guarded


def traced(
    original: Callable[..., Any], operation: Operation, runtime: Runtime, owner: type
) -> Callable[..., Any]:
    """A plain function that behaves as ``original`` in every way and makes its span."""
    asynchronous = inspect.iscoroutinefunction(original)
    if asynchronous:
        make = _traced_async
    else:
        # A plain function may return the coroutine of another.
        make = _traced_awaitable if original.__name__ == "acall" else _traced_sync
    begin = _BeginCall(begin_call, operation, runtime, owner, asynchronous)
    return as_dspy_frame(make(original, begin), original)


# A partial, since that is called without a frame of its own.
class _BeginCall(functools.partial["Call | None"]):
    """`begin` for one method. Pickled by value, with the method, it opens nothing any more."""

    def __reduce__(self) -> Any:
        return copy.copy, (_begin_nothing,)


@pickled_by_value
def _begin_nothing(instance: Any, args: Any, kwargs: Any) -> None:
    """In another process, or in a copy, the runtime with its provider and locks is missing."""


def _traced_sync(_original: Callable[..., Any], _begin: Callable[..., Call | None]) -> Any:
    _hide = hide_frame

    def traced(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _call = _begin(self, args, kwargs)
        try:
            _result = _original(self, *args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            if _call is not None:
                _call.close(None, _error)
            raise
        if _call is not None:
            _call.close(_result)
        return _result

    return traced


def _traced_awaitable(_original: Callable[..., Any], _begin: Callable[..., Call | None]) -> Any:
    _hide, _is_coroutine, _when_awaited = hide_frame, inspect.iscoroutine, _close_when_awaited

    def traced(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _call = _begin(self, args, kwargs)
        try:
            _result = _original(self, *args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            if _call is not None:
                _call.close(None, _error)
            raise
        if _call is None:
            return _result
        if _is_coroutine(_result):
            return _when_awaited(_call, _result)
        _call.close(_result)
        return _result

    return traced


@pickled_by_value
def _close_when_awaited(call: Call, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The coroutine, in whose end the call ends."""
    _hide = hide_frame
    call.leave()
    call.asynchronous = True

    async def finished() -> Any:
        call.resume()
        try:
            _result = await coroutine
        except BaseException as _error:
            _hide(_error)
            call.close(None, _error)
            raise
        call.close(_result)
        return _result

    later = finished()
    # As whoever looks at it, or is warned that nobody awaits it, knows it.
    later.__name__, later.__qualname__ = coroutine.__name__, coroutine.__qualname__
    weakref.finalize(later, _close_unawaited, call, coroutine).atexit = False
    return later


@pickled_by_value
def _close_unawaited(call: Call, coroutine: Coroutine[Any, Any, Any]) -> None:
    """End a call whose coroutine was thrown away before its first step, in which nothing runs."""
    coroutine.close()  # the warning is about the one coroutine that the program has seen
    if call.context is not None:
        call.close(None, GeneratorExit())


def _traced_async(_original: Callable[..., Any], _begin: Callable[..., Call | None]) -> Any:
    _hide = hide_frame

    async def traced(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _call = _begin(self, args, kwargs)
        try:
            _result = await _original(self, *args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            if _call is not None:
                _call.close(None, _error)
            raise
        if _call is not None:
            _call.close(_result)
        return _result

    return traced


def traced_function(function: Callable[..., Any], begin: Callable[..., Call | None]) -> Any:
    """A function that is handed on for one use, where there is no attribute to patch.

    Args:
        function: Any callable that takes a positional argument.
        begin: Given the first argument, the others and those by keyword; opens the call.
    """
    return as_dspy_frame(_traced_sync(function, begin), function)


def observe_call(_original: Callable[..., Any], _observer: Callable[..., None]) -> Any:
    """``_original``; before each call ``_observer(*args)``."""
    _guarded, _hide = guarded, hide_frame

    def observed(*args: Any, **kwargs: Any) -> Any:
        _guarded(_observer, *args)
        try:
            return _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise

    return as_dspy_frame(observed, _original)


def observe_result(_original: Callable[..., Any], _observer: Callable[..., None]) -> Any:
    """``_original``; after each call that returned ``_observer(result, *args)``."""
    _guarded, _hide = guarded, hide_frame

    def observed(*args: Any, **kwargs: Any) -> Any:
        try:
            _result = _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        _guarded(_observer, _result, *args)
        return _result

    return as_dspy_frame(observed, _original)


def observe_async_result(_original: Callable[..., Any], _observer: Callable[..., None]) -> Any:
    """`observe_result` for a coroutine function."""
    _guarded, _hide = guarded, hide_frame

    async def observed(*args: Any, **kwargs: Any) -> Any:
        try:
            _result = await _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        _guarded(_observer, _result, *args)
        return _result

    return as_dspy_frame(observed, _original)
