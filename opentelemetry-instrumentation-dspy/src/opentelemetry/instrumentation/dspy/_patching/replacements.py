# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The functions that replace or observe functions of DSPy."""

from __future__ import annotations

import copy
import functools
import inspect
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from opentelemetry.instrumentation.dspy._calls.begin import begin_call, opened_call
from opentelemetry.instrumentation.dspy._calls.call import Call, Operation, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import (
    as_dspy_frame,
    hide_frame,
    pickled_by_value,
)
from opentelemetry.instrumentation.dspy._calls.steps import CallPart, Step, begin_step
from opentelemetry.instrumentation.dspy._guarding import guarded

_Begin: TypeAlias = "Callable[..., Call | CallPart | None]"


def traced(
    original: Callable[..., Any], operation: Operation | Step, runtime: Runtime, owner: type
) -> Callable[..., Any]:
    """A function that behaves like ``original``, with a span or a step for each call."""
    asynchronous = inspect.iscoroutinefunction(original)
    if asynchronous:
        make = _traced_async
    else:
        # A function that is not async may return a coroutine of another function.
        make = _traced_awaitable if original.__name__ in ("acall", "aforward") else _traced_sync
    if isinstance(operation, Step):
        begin = _BeginCall(begin_step, operation)
    else:
        begin = _BeginCall(begin_call, operation, runtime, owner, asynchronous)
    return as_dspy_frame(make(original, begin, _BeginCall(opened_call)), original)


# A partial, which is called without a Python frame.
class _BeginCall(functools.partial["Call | CallPart | None"]):
    """A function that opens or finds a call of a method. Pickled with the method, it finds none."""

    def __reduce__(self) -> Any:
        return copy.copy, (_begin_nothing,)


@pickled_by_value
def _begin_nothing(instance: Any, args: Any, kwargs: Any) -> None:
    """Open no call: another process, or a copy, lacks the runtime with its provider and locks."""


def _traced_sync(_original: Callable[..., Any], _begin: _Begin, _opened: _Begin) -> Any:
    _hide = hide_frame

    def traced(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        # A signal handler may raise anywhere, so no step is outside of the handler.
        _call = None
        try:
            _call = _begin(self, args, kwargs)
            _result = _original(self, *args, **kwargs)
            if _call is not None:
                _call.close(_result)
        except BaseException as _error:
            _hide(_error)
            _call = _call or _opened(self, args, kwargs)
            if _call is not None:
                _call.close(None, _error)
            raise
        return _result

    return traced


def _traced_awaitable(_original: Callable[..., Any], _begin: _Begin, _opened: _Begin) -> Any:
    _hide, _is_coroutine, _when_awaited = hide_frame, inspect.iscoroutine, _close_when_awaited

    def traced(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _call = None
        try:
            _call = _begin(self, args, kwargs)
            _result = _original(self, *args, **kwargs)
            if _call is not None:
                if _is_coroutine(_result):
                    return _when_awaited(_call, _result)
                _call.close(_result)
        except BaseException as _error:
            _hide(_error)
            _call = _call or _opened(self, args, kwargs)
            if _call is not None:
                _call.close(None, _error)
            raise
        return _result

    return traced


@pickled_by_value
def _close_when_awaited(call: Call | CallPart, coroutine: Coroutine[Any, Any, Any]) -> Any:
    """A coroutine that runs ``coroutine`` and then closes the call."""
    _hide = hide_frame
    call.leave()
    call.asynchronous = True

    async def finished() -> Any:
        try:
            discarded.detach()
            call.resume()
            _result = await coroutine
            call.close(_result)
        except BaseException as _error:
            _hide(_error)
            call.close(None, _error)
            raise
        return _result

    later = finished()
    # Keep the original name, for introspection and for "was never awaited" warnings.
    later.__name__, later.__qualname__ = coroutine.__name__, coroutine.__qualname__
    # The program may keep the coroutine in the instance, which the call refers to: a strong
    # reference would keep all three alive.
    of_call, of_coroutine = weakref.ref(call), weakref.ref(coroutine)
    discarded = weakref.finalize(later, _close_unawaited, of_call, of_coroutine, call.span_end())
    discarded.atexit = False
    return later


@pickled_by_value
def _close_unawaited(
    of_call: Callable[[], Call | CallPart | None],
    of_coroutine: Callable[[], Coroutine[Any, Any, Any] | None],
    end_span: Callable[[], None],
) -> None:
    """End a call whose coroutine was discarded before it started.

    If they are parts of a cycle, the call and the coroutine are gone already.
    """
    coroutine, call = of_coroutine(), of_call()
    if coroutine is not None:
        coroutine.close()  # warn once, about the coroutine that the program received
    if call is None:
        end_span()
    elif call.context is not None:
        call.close(None, GeneratorExit())


def _traced_async(_original: Callable[..., Any], _begin: _Begin, _opened: _Begin) -> Any:
    _hide = hide_frame

    async def traced(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        _call = None
        try:
            _call = _begin(self, args, kwargs)
            _result = await _original(self, *args, **kwargs)
            if _call is not None:
                _call.close(_result)
        except BaseException as _error:
            _hide(_error)
            _call = _call or _opened(self, args, kwargs)
            if _call is not None:
                _call.close(None, _error)
            raise
        return _result

    return traced


def traced_function(
    function: Callable[..., Any], begin: Callable[..., Call | CallPart | None]
) -> Any:
    """``function`` with a call around each of its calls, if there is no attribute to patch.

    Args:
        function: Any callable that takes a positional argument.
        begin: Opens the call, given the first argument, the other positional arguments and the
            keyword arguments.
    """
    return as_dspy_frame(_traced_sync(function, begin, opened_call), function)


def observe_call(_original: Callable[..., Any], _observer: Callable[..., None]) -> Any:
    """``_original``, with ``_observer(*args)`` before each call."""
    _guarded, _hide = guarded, hide_frame

    def observed(*args: Any, **kwargs: Any) -> Any:
        try:
            _guarded(_observer, *args)
            return _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise

    return as_dspy_frame(observed, _original)


def observe_result(_original: Callable[..., Any], _observer: Callable[..., None]) -> Any:
    """``_original``, with ``_observer(result, *args)`` after each call that returned."""
    _guarded, _hide = guarded, hide_frame

    def observed(*args: Any, **kwargs: Any) -> Any:
        try:
            _result = _original(*args, **kwargs)
            _guarded(_observer, _result, *args)
        except BaseException as _error:
            _hide(_error)
            raise
        return _result

    return as_dspy_frame(observed, _original)


def observe_async_result(_original: Callable[..., Any], _observer: Callable[..., None]) -> Any:
    """`observe_result` for coroutine functions."""
    _guarded, _hide = guarded, hide_frame

    async def observed(*args: Any, **kwargs: Any) -> Any:
        try:
            _result = await _original(*args, **kwargs)
            _guarded(_observer, _result, *args)
        except BaseException as _error:
            _hide(_error)
            raise
        return _result

    return as_dspy_frame(observed, _original)
