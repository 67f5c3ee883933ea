# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Classes of the program that are made in unusual ways."""

from __future__ import annotations

import dataclasses
import sys
import traceback
import types
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
import wrapt

from tests.support.lms import EchoLM
from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TraceWith


class Base(EchoLM):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return EchoLM.__call__(self, *args, **kwargs)


def recursive(self: Any, *args: Any, depth: int = 1, **kwargs: Any) -> Any:
    if depth:
        return self(*args, depth=depth - 1, **kwargs)
    return Base.__call__(self, *args, **kwargs)


def test_a_class_that_is_made_anew_of_the_same_methods(traced: Traced) -> None:
    @dataclasses.dataclass(slots=True, eq=False, init=False)  # makes a second class of the first
    class Slotted(Base):
        __call__ = recursive

    assert Slotted()("hello") == EchoLM()("hello")
    assert traced.tree() == "chat echo\n└─ chat echo\nchat echo"
    uninstrument()
    assert vars(Slotted)["__call__"] is recursive


def test_a_method_that_two_classes_share(traced: Traced) -> None:
    class One(Base):
        __call__ = recursive

    class Two(Base):
        __call__ = vars(One)["__call__"]

    Two()("hello")
    assert traced.tree() == "chat echo\n└─ chat echo"
    uninstrument()
    assert vars(One)["__call__"] is vars(Two)["__call__"] is recursive


class Closed(type(EchoLM)):  # type: ignore[misc]
    """A metaclass whose classes stay as they were written, for as long as a test wants that."""

    closed = False

    def __setattr__(cls, name: str, value: Any) -> None:
        if Closed.closed:
            raise TypeError("closed")
        super().__setattr__(name, value)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(Closed, "closed", True)
        yield


@pytest.mark.usefixtures("closed")
@pytest.mark.parametrize("defined", ["before", "while traced"])
def test_a_class_that_cannot_be_changed_costs_no_other_its_spans(
    trace_with: TraceWith, telemetry_log: Any, defined: str
) -> None:
    def define() -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            return EchoLM.__call__(self, *args, **kwargs)

        members = {"__call__": call}
        return Closed("Fixed", (EchoLM,), members)

    fixed = define() if defined == "before" else None
    traced = trace_with()
    fixed = fixed or define()
    assert fixed()("hello") == EchoLM()("hello")
    assert traced.names() == ["chat echo", "chat echo"]
    (warning,) = telemetry_log.take()
    assert "TypeError" in warning
    assert callable(vars(fixed)["__call__"])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python < 3.11 keeps the frame")
def test_an_error_in_a_class_statement_has_no_frame_of_ours(traced: Traced) -> None:
    def files() -> list[str]:
        with pytest.raises(TypeError, match="takes no keyword arguments") as raised:
            types.new_class("Wrong", (EchoLM,), {"colour": "blue"})
        return [frame.filename for frame in traceback.extract_tb(raised.tb)]

    while_traced = files()
    uninstrument()
    assert while_traced == files()


@wrapt.decorator
def noting(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    instance.bound_to.append((wrapped.__name__, args))
    return wrapped(*args, **kwargs)


class Decorated(EchoLM):
    """An LM whose methods a library has decorated that tells them from functions (wrapt)."""

    bound_to: list[Any]

    @noting
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)

    @noting
    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        return await super().acall(*args, **kwargs)


async def test_a_decorator_is_given_the_instance_that_its_method_is_called_on() -> None:
    class Program(dspy.Module):
        bound_to: list[Any]

        def forward(self, question: str) -> str:
            return question

        @noting
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    async def calls() -> Any:
        lm, program = Decorated(), Program()
        lm.bound_to = program.bound_to = []
        answers = lm("hello"), await lm.acall("hello"), program("hello")
        return answers, lm.bound_to

    untraced = await calls()
    traced = Traced()
    try:
        assert await calls() == untraced
        assert traced.tree() == "chat echo\nchat echo\ninvoke_workflow Program"
    finally:
        uninstrument()


class Twice:
    """A mixin that tries everything twice, whatever it is mixed into."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        super().__call__(*args, **kwargs)  # type: ignore[misc]
        return super().__call__(*args, **kwargs)  # type: ignore[misc]

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        await super().acall(*args, **kwargs)  # type: ignore[misc]
        return await super().acall(*args, **kwargs)  # type: ignore[misc]


class Alone(Twice):
    """Nothing of DSPy's."""

    def __init__(self) -> None:
        self.times = 0


class Letters(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = dspy.Tool(lambda text: text.count("o"), name="count", args={"text": {}})

    def forward(self, text: str) -> int:
        return self.count(text=text)

    async def aforward(self, text: str) -> int:
        return self.count(text=text)


LETTERS = "invoke_workflow {}\n├─ execute_tool count\n└─ execute_tool count"


@pytest.mark.parametrize("defined", ["before", "while traced"])
async def test_a_method_from_a_mixin_makes_one_span(trace_with: TraceWith, defined: str) -> None:
    def define() -> tuple[Any, Any]:
        class TwiceLetters(Twice, Letters): ...

        class TwiceEcho(Twice, EchoLM): ...

        return TwiceLetters, TwiceEcho

    classes = define() if defined == "before" else None
    traced = trace_with()
    program, lm = classes or define()
    assert program()(text="foo") == 2
    assert traced.tree() == LETTERS.format("TwiceLetters")
    traced.clear()
    assert await program().acall(text="foo") == 2
    assert traced.tree() == LETTERS.format("TwiceLetters")
    traced.clear()
    assert lm()("hello") == EchoLM()("hello")
    assert traced.names() == ["chat echo"] * 2


def test_a_mixin_is_left_as_it_was() -> None:
    call, acall = vars(Twice)["__call__"], vars(Twice)["acall"]
    traced = Traced()

    class OverMixin(Twice, Letters):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    class TwiceEcho(Twice, EchoLM): ...

    try:
        assert Twice.__call__ is call
        assert OverMixin()(text="foo") == 2
        assert traced.tree() == LETTERS.format("OverMixin")
        with pytest.raises(AttributeError, match="__call__"):  # it has no class behind it
            Alone()()
        assert Alone().__call__.__func__ is call
    finally:
        uninstrument()
    assert vars(Twice)["__call__"] is call
    assert vars(Twice)["acall"] is acall
    assert TwiceEcho()("hello") == EchoLM()("hello")


async def test_a_method_that_another_instrumentation_has_wrapped() -> None:
    seen: list[Any] = []

    def note(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append((type(instance).__name__, len(args)))
        return wrapped(*args, **kwargs)

    async def calls() -> list[Any]:
        seen.clear()
        program = Letters()
        await program.acall(text="foo")
        program.batch([dspy.Example(text="foo").with_inputs("text")], disable_progress_bar=True)
        return list(seen)

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (dspy.Module, "__call__"),
            (dspy.Module, "acall"),
            (dspy.utils.parallelizer.ParallelExecutor, "execute"),
        ):
            patch.setattr(owner, name, wrapt.FunctionWrapper(vars(owner)[name], note))
        untraced = await calls()
        assert len(untraced) == 3
        traced = Traced()
        try:
            assert await calls() == untraced
            assert "execute_tool count" in traced.names()
        finally:
            uninstrument()
        assert await calls() == untraced
