# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""trace_context() as a decorator of every kind of callable."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

import pytest

from mlflow_bridge._spans.trace_context import current_trace_context, trace_context


def user(given: str = "-", *, more: int = 0) -> str | None:
    values = current_trace_context()
    return values.user_id if values else None


async def user_async(given: str = "-", *, more: int = 0) -> str | None:
    return user()


def users(given: str = "-", *, more: int = 0) -> Generator[str | None, None, None]:
    yield user()
    yield user()


async def users_async(given: str = "-", *, more: int = 0) -> AsyncGenerator[str | None, None]:
    yield user()
    yield user()


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind another, which does not show of what kind the function is."""

    def shown(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return shown


def as_object(function: Callable[..., Any]) -> Any:
    method = {
        user: lambda: _Object,
        user_async: lambda: _AsyncObject,
        users: lambda: _Generating,
        users_async: lambda: _GeneratingAsync,
    }[function]
    return method()()


class _Object:
    def __call__(self, given: str = "-", *, more: int = 0) -> str | None:
        return user()


class _AsyncObject:
    async def __call__(self, given: str = "-", *, more: int = 0) -> str | None:
        return user()


class _Generating:
    def __call__(self, given: str = "-", *, more: int = 0) -> Generator[str | None, None, None]:
        yield from users()


class _GeneratingAsync:
    async def __call__(
        self, given: str = "-", *, more: int = 0
    ) -> AsyncGenerator[str | None, None]:
        async for each in users_async():
            yield each


class _Methods:
    user = user
    user_async = user_async
    users = users
    users_async = users_async


def bound(function: Callable[..., Any]) -> Any:
    return getattr(_Methods(), function.__name__)


async def found(result: Any) -> list[str | None]:
    """What the call has seen, each time between two looks of the consumer."""
    if isinstance(result, AsyncGenerator):
        seen: list[str | None] = []
        async for each in result:
            seen.append(each)
            assert user() is None
        return seen
    if isinstance(result, Generator):
        seen = []
        for each in result:
            seen.append(each)
            assert user() is None
        return seen
    return [await result if isinstance(result, Awaitable) else result]


KINDS = [user, user_async, users, users_async]
SHAPES: list[Any] = [
    pytest.param(lambda function: function, id="function"),
    pytest.param(lambda function: functools.partial(function, "x", more=1), id="partial"),
    pytest.param(bound, id="bound method"),
    pytest.param(as_object, id="object"),
    pytest.param(hidden, id="hidden"),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_the_whole_call_runs_in_the_block(kind: Any, shape: Any) -> None:
    call = shape(kind)
    decorated = trace_context(user_id="u")(call)
    assert set(await found(decorated())) == {"u"}
    assert user() is None
    assert inspect.signature(decorated) == inspect.signature(call)
    kinds = (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    )
    assert all(is_kind(decorated) for is_kind in kinds if is_kind(call))


class Decorated:
    value = 7

    @trace_context(user_id="u")
    @staticmethod
    def above_static(given: str) -> Any:
        return user(), given

    @staticmethod
    @trace_context(user_id="u")
    def below_static(given: str) -> Any:
        return user(), given

    @trace_context(user_id="u")
    @classmethod
    async def above_class(cls, given: str) -> Any:
        return user(), given, cls.value

    @trace_context(user_id="u")
    def method(self, given: str) -> Any:
        return user(), given, self.value

    @trace_context(user_id="u")
    async def async_method(self, given: str) -> Any:
        return user(), given, self.value

    unbound = trace_context(user_id="u")(functools.partial(lambda *args: (user(), *args), 1))


async def test_methods_bind_as_before() -> None:
    for owner in (Decorated, Decorated()):
        assert owner.above_static("x") == owner.below_static("x") == ("u", "x")
        assert await owner.above_class("x") == ("u", "x", 7)
    assert Decorated().method("x") == await Decorated().async_method("x") == ("u", "x", 7)
    assert Decorated().unbound(2) == ("u", 1, 2)
    assert list(inspect.signature(Decorated.above_static).parameters) == ["given"]
    assert list(inspect.signature(Decorated.method).parameters) == ["self", "given"]


async def test_exceptions_and_sent_values_pass_through() -> None:
    @trace_context(user_id="u")
    def echo() -> Generator[Any, Any, str]:
        received = yield user()
        try:
            yield received
        except ValueError as error:
            yield str(error), user()
        return "done"

    steps = echo()
    assert (next(steps), steps.send(1), steps.throw(ValueError("x"))) == ("u", 1, ("x", "u"))
    with pytest.raises(StopIteration, match="done"):
        next(steps)

    @trace_context(user_id="u")
    async def failing() -> None:
        raise KeyError(user())

    with pytest.raises(KeyError, match="u"):
        await failing()
    assert user() is None
