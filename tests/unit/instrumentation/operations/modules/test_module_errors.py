# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls that end in an exception or are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import dspy
import pytest
from opentelemetry.trace import StatusCode

from tests.support.lms import EchoLM, FailingLM
from tests.support.traced import Traced

pytestmark = pytest.mark.surface("workflow")


class OutOfStockError(Exception):
    pass


class Raising(dspy.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self) -> None:
        raise self.error

    async def aforward(self) -> None:
        raise self.error


class Passing(dspy.Module):
    def __init__(self, below: Any) -> None:
        super().__init__()
        self.below = below

    def forward(self) -> Any:
        return self.below()

    async def aforward(self) -> Any:
        return await self.below.acall()


def exception_events(span: Any) -> list[dict[str, Any]]:
    return [dict(event.attributes) for event in span.events if event.name == "exception"]


def test_the_caller_gets_the_very_exception(traced: Traced) -> None:
    error = OutOfStockError("none left")
    with pytest.raises(OutOfStockError) as caught:
        Passing(Raising(error))()
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None


def test_status_type_and_event(traced: Traced) -> None:
    with pytest.raises(OutOfStockError):
        Raising(OutOfStockError("none left"))()
    kind = f"{__name__}.OutOfStockError"
    span = traced.span("invoke_workflow Raising")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == f"{kind}: none left"
    assert (span.attributes or {})["error.type"] == kind
    (event,) = exception_events(span)
    assert (event["exception.type"], event["exception.message"]) == (kind, "none left")
    assert event["exception.stacktrace"].endswith(f"{kind}: none left\n")
    assert "raise self.error" in event["exception.stacktrace"]


def test_a_builtin_type_has_its_plain_name(traced: Traced) -> None:
    with pytest.raises(ValueError, match="x"):
        Raising(ValueError("x"))()
    assert traced.attributes("invoke_workflow Raising")["error.type"] == "ValueError"


def test_no_output_and_no_status_where_it_does_not_belong(traced: Traced) -> None:
    with pytest.raises(ValueError, match="x"):
        Raising(ValueError("x"))()
    assert "dspy.module.output" not in traced.attributes("invoke_workflow Raising")
    traced.clear()
    EchoLM()("hello")
    span = traced.span("chat echo")
    assert span.status.status_code is StatusCode.UNSET
    assert exception_events(span) == []


ERRORS_ALL_THE_WAY = """\
invoke_workflow Passing ERROR(OutOfStockError)
└─ Passing below ERROR(OutOfStockError)
   └─ Raising below.below ERROR(OutOfStockError)"""


async def test_the_stack_stands_on_the_innermost_span_only(traced: Traced) -> None:
    program = Passing(Passing(Raising(OutOfStockError("none left"))))
    for run in ("sync", "async"):
        traced.clear()
        with pytest.raises(OutOfStockError):
            program() if run == "sync" else await program.acall()
        assert traced.tree() == ERRORS_ALL_THE_WAY
        with_stack = [
            span.name
            for span in traced.spans
            if "exception.stacktrace" in exception_events(span)[0]
        ]
        assert with_stack == ["Raising below.below"]


def test_an_error_that_replaces_another_has_a_stack_of_its_own(traced: Traced) -> None:
    def fail() -> None:
        raise ValueError("swallowed")

    class Replacing(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tool = dspy.Tool(fail)

        def forward(self) -> None:
            # The second exception is often allocated at the address of the first.
            with contextlib.suppress(ValueError):
                self.tool()
            raise ValueError("raised")

    for _ in range(20):
        with pytest.raises(ValueError, match="raised"):
            Replacing()()
    roots = [span for span in traced.spans if span.name == "invoke_workflow Replacing"]
    assert [span for span in roots if "exception.stacktrace" not in exception_events(span)[0]] == []


def test_a_handled_error_leaves_the_caller_unmarked(traced: Traced) -> None:
    class Handling(Passing):
        def forward(self) -> Any:
            try:
                return super().forward()
            except OutOfStockError:
                return "sold out"

    assert Handling(Raising(OutOfStockError()))() == "sold out"
    assert traced.tree() == ("invoke_workflow Handling\n└─ Raising below ERROR(OutOfStockError)")


def test_an_lm_error_goes_up_and_the_call_counts(traced: Traced) -> None:
    class Program(dspy.Module):
        def forward(self) -> Any:
            return FailingLM(lambda: ConnectionError("down"))("hello")

    with pytest.raises(ConnectionError, match="down"):
        Program()()
    assert traced.tree("dspy.lm.call.count") == (
        "invoke_workflow Program {dspy.lm.call.count=1} ERROR(ConnectionError)\n"
        "└─ chat failing ERROR(ConnectionError)"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_ends_the_span_as_well(
    traced: Traced, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        Passing(Raising(error()))()
    kind = error.__name__
    assert traced.tree() == (
        f"invoke_workflow Passing ERROR({kind})\n└─ Raising below ERROR({kind})"
    )


class Waiting(dspy.Module):
    """Says when it is under way, then waits for good."""

    def __init__(self) -> None:
        super().__init__()
        self.started = asyncio.Event()

    async def aforward(self) -> None:
        self.started.set()
        await asyncio.Event().wait()


async def test_a_cancelled_task_ends_its_spans(traced: Traced) -> None:
    waiting = Waiting()
    task = asyncio.create_task(Passing(waiting).acall())
    await waiting.started.wait()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert traced.tree() == (
        "invoke_workflow Passing ERROR(CancelledError)\n└─ Waiting below ERROR(CancelledError)"
    )


async def test_a_timeout_ends_its_spans(traced: Traced) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(Passing(Waiting()).acall(), timeout=0.01)
    assert traced.tree().count("ERROR(CancelledError)") == 2


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class NoTextError(Exception):
    def __str__(self) -> Any:
        return 42  # noqa: PLE0307 - the error that is tested


class FalseError(Exception):
    """No stack is to be had of it: the traceback module asks whether it is true."""

    def __bool__(self) -> bool:
        raise RuntimeError("neither")


class FrozenError(Exception):
    def with_traceback(self, traceback: Any) -> Any:
        raise AttributeError("frozen")


@pytest.mark.parametrize(
    "error",
    [
        UnreadableError(),
        NoTextError(),
        FalseError("x"),
        FrozenError("x"),
        ValueError("lone \ud800 surrogate"),
        ValueError("x" * 10_000_000),
        KeyError(("a", object())),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
    ],
    ids=lambda error: type(error).__name__ + str(len(error.args)),
)
def test_exceptions_that_are_hard_to_write_down(traced: Traced, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        Passing(Raising(error))()
    assert caught.value is error
    for span in traced.spans:
        (event,) = exception_events(span)
        assert len(event["exception.message"]) <= 2_000
        assert len(event.get("exception.stacktrace", "")) <= 16_000
        assert len(span.status.description or "") <= 2_200
