# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of any callable inside of a block: also what a call does after it has returned.

A coroutine or generator runs after the call that made it. So the block encloses the coroutine, and
each step of the generator: between two steps, its consumer's code runs outside of the block.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final, cast

_Block = Callable[[], AbstractContextManager[object]]


def enclosed(call: Any, block: _Block) -> Any:
    """The callable with each call in a block of its own.

    The result is of the same kind for `inspect`: a function, coroutine function, generator function
    or asynchronous generator function with the same signature. A ``staticmethod``, ``classmethod``
    or ``functools.partialmethod`` stays one, and an object that does not bind to an instance does
    not bind afterwards.

    Args:
        call: The callable.
        block: Makes the block of a call.
    """
    kind = _class_of(call)
    if issubclass(kind, (staticmethod, classmethod)):
        return cast("Any", kind)(enclosed(call.__func__, block))
    if issubclass(kind, functools.partialmethod):
        return functools.partialmethod(enclosed(call.func, block), *call.args, **call.keywords)
    made = _function(call, block)
    if hasattr(kind, "__get__"):
        return made
    # A partial object does not bind to an instance either, and `inspect` looks through it.
    return functools.update_wrapper(functools.partial(made), call)


def continued(result: Any, block: _Block) -> Any:
    """The result of a call, of which the rest of the work runs in blocks of its own.

    Args:
        result: The result. Only a coroutine or a generator has work left.
        block: Makes a block.
    """
    kind = _class_of(result)
    for each, wrapper in _WORKING_LATER:
        if issubclass(kind, each):
            return wrapper(lambda: result, block)()
    return result


def _function(call: Any, block: _Block) -> Callable[..., Any]:
    if _is(inspect.iscoroutinefunction, call):
        return _awaited(call, block)
    if _is(inspect.isasyncgenfunction, call):
        return _generated_async(call, block)
    if _is(inspect.isgeneratorfunction, call):
        return _generated(call, block)

    @functools.wraps(call)
    def in_block(*args: Any, **kwargs: Any) -> Any:
        with block():
            result = call(*args, **kwargs)
        return continued(result, block)

    return in_block


def _is(kind: Callable[[Any], bool], call: Any) -> bool:
    """Whether a callable, or the method with which its class makes it callable, is of a kind."""
    made_by = _class_of(call)
    # A class is called for an instance, whatever the method of its instances is.
    return kind(call) or (not inspect.isclass(call) and kind(made_by.__call__))


def _class_of(value: Any) -> Any:
    return cast("Any", type(value))


def _awaited(call: Any, block: _Block) -> Callable[..., Any]:
    @functools.wraps(call)
    async def in_block(*args: Any, **kwargs: Any) -> Any:
        with block():
            return await call(*args, **kwargs)

    return in_block


def _generated(call: Any, block: _Block) -> Callable[..., Any]:
    @functools.wraps(call)
    def in_block(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from _Steps(call(*args, **kwargs), block))

    return in_block


def _generated_async(call: Any, block: _Block) -> Callable[..., Any]:
    @functools.wraps(call)
    async def in_block(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        steps = call(*args, **kwargs)
        try:
            step, value = steps.asend, None
            while True:
                with block():
                    try:
                        item = await step(value)
                    except StopAsyncIteration:
                        return
                try:
                    step, value = steps.asend, (yield item)
                except GeneratorExit:
                    raise
                except BaseException as error:
                    step, value = steps.athrow, error
        finally:
            with block():
                await steps.aclose()

    return in_block


_WORKING_LATER: Final = (
    (CoroutineType, _awaited),
    (GeneratorType, _generated),
    (AsyncGeneratorType, _generated_async),
)
"""The results of a call that do their work later, each with the wrapper of its function."""


class _Steps(Generator[Any, Any, Any]):
    """A generator whose every step runs in a block."""

    def __init__(self, steps: Generator[Any, Any, Any], block: _Block) -> None:
        self._steps = steps
        self._block = block

    def send(self, value: Any, /) -> Any:
        with self._block():
            return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        with self._block():
            return self._steps.throw(*error)

    def close(self) -> None:
        with self._block():
            self._steps.close()
