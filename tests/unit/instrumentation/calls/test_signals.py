# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions of signal handlers reach the program, wherever telemetry is at work.

Celery's soft time limit and RQ's job timeout are raised that way, as plain exceptions.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest
from opentelemetry import context as context_api
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult

from opentelemetry.instrumentation.dspy import DSPyInstrumentor, _metrics
from opentelemetry.instrumentation.dspy._calls import call as call_module
from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy._operations import streaming
from opentelemetry.instrumentation.dspy._operations.modules.module import ModuleOperation
from opentelemetry.instrumentation.dspy._operations.tools.tool import ToolOperation
from opentelemetry.instrumentation.dspy.api import raised_by_signal
from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread(),
    reason="signals are handled by the main thread",
)
ROUNDS = 300


class TimeLimit(Exception):
    """A limit, as Celery raises it."""


class Counting(SpanProcessor):
    """How often each span has started and ended."""

    def __init__(self) -> None:
        self.started: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        self.started[id_of(span)] += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.ended[id_of(span)] += 1


def id_of(span: Any) -> int:
    return span.get_span_context().span_id


SDK_END = Span.end.__code__


class Handler:
    """A signal handler that raises and counts: all signals, and those during the SDK's ``end``."""

    def __init__(self, error: type[BaseException] = TimeLimit) -> None:
        self.error = error
        self.raised = self.in_end = 0

    def __call__(self, signum: int, frame: Any) -> None:
        self.raised += 1
        self.in_end += any(step.f_code is SDK_END for step, _ in traceback.walk_stack(frame))
        raise self.error


@pytest.fixture
def handler() -> Iterator[Handler]:
    handler = Handler()
    before = {number: signal.signal(number, handler) for number in (signal.SIGALRM, signal.SIGUSR1)}
    yield handler
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, old in before.items():
        signal.signal(number, old)


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tool = dspy.Tool(self.divide, name="divide")
        self.inner = Inner()

    def divide(self, number: Any) -> float:
        return 1 / number

    def forward(self, number: Any) -> float:
        return self.inner(number=self.tool(number=number))

    async def aforward(self, number: Any) -> float:
        return await self.inner.acall(number=self.tool(number=number))


class Inner(dspy.Module):
    def forward(self, number: Any) -> Any:
        return number

    async def aforward(self, number: Any) -> Any:
        await asyncio.sleep(0)
        return number


class Steps(dspy.Module):
    """A module that returns a generator, whose steps are traced as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, number: Any) -> Any:
        return (self.inner(number=step + number) for step in range(3))


class Awaited(Program):
    """A module whose ``acall`` is not a coroutine function."""

    def acall(self, number: Any) -> Any:  # type: ignore[override]
        return super().acall(number=number)


class OwnModule(dspy.Module):
    def __call__(self, number: Any) -> Any:  # type: ignore[override]
        return super().__call__(number=number)

    def forward(self, number: Any) -> Any:
        return number


PROGRAM, STEPS, OWN = Program(), Steps(), OwnModule()


def sync() -> None:
    PROGRAM(number=1)


def generator() -> None:
    assert len(list(STEPS(number=1))) == 3


def overridden() -> None:
    OWN(1)


def run_with_alarms(run: Callable[[], None], handler: Handler, rounds: int) -> int:
    """Call in a tight loop until an alarm raises; returns how often its exception arrived."""
    arrived, before = 0, context_api.get_current()
    drawn = random.Random(7)
    for _ in range(rounds):
        expected = handler.raised + 1
        try:
            signal.setitimer(signal.ITIMER_REAL, drawn.uniform(20e-6, 900e-6))
            while handler.raised < expected:
                run()
        except TimeLimit:
            arrived += 1
        assert context_api.get_current() == before
    return arrived


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("run", [sync, generator, overridden])
def test_each_exception_of_an_alarm_arrives(handler: Handler, run: Any, content: bool) -> None:
    counting, provider = Counting(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(counting)
    DSPyInstrumentor().instrument(tracer_provider=provider, capture_content=content)
    gc.collect()
    gc.disable()  # what a handler raises in a finalizer or weakref callback is lost anyway
    try:
        assert run_with_alarms(run, handler, ROUNDS) == handler.raised == ROUNDS
    finally:
        gc.enable()
        uninstrument()
    assert set(counting.ended.values()) == {1}
    # The SDK marks a span as ended before it tells its processors.
    lost = counting.started.keys() - counting.ended.keys()
    assert len(lost) <= handler.in_end


SELECTIONS: dict[str, dict[str, Any]] = {
    "nothing": {"module_filter": "Other"},
    "inner": {"module_filter": "Inner"},
    "outer": {"module_filter": ["Program", "Steps", "OwnModule"]},
    "condition": {"trace_condition": lambda inputs: False},
}


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("run", [sync, generator, overridden])
def test_each_exception_arrives_while_not_all_calls_are_recorded(
    handler: Handler, run: Any, selection: str
) -> None:
    counting, provider = Counting(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(counting)
    DSPyInstrumentor().instrument(tracer_provider=provider, **SELECTIONS[selection])
    gc.collect()
    gc.disable()
    try:
        assert run_with_alarms(run, handler, ROUNDS) == handler.raised == ROUNDS
    finally:
        gc.enable()
        uninstrument()
    assert set(counting.ended.values()) <= {1}
    lost = counting.started.keys() - counting.ended.keys()
    assert len(lost) <= handler.in_end


class Interrupting(SpanProcessor):
    """A span processor and sampler in which a signal arrives."""

    def __init__(self, point: str) -> None:
        self.point = point

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if self.point == "on_start":
            interrupt()

    def on_end(self, span: ReadableSpan) -> None:
        if self.point == "on_end":
            interrupt()


class InterruptedSampler(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        interrupt()
        return ALWAYS_ON.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "interrupted"


class Armed:
    once = False


def interrupt(*_: Any) -> None:
    """Send the signal, once after it was armed."""
    if Armed.once:
        Armed.once = False
        signal.raise_signal(signal.SIGUSR1)


def interrupting(method: Any, when: str = "before") -> Any:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            interrupt()
        result = method(*args, **kwargs)
        interrupt()
        return result

    return interrupted


class Interrupted:
    """A value whose repr is interrupted."""

    def __truediv__(self, other: Any) -> Any:
        return 1

    def __rtruediv__(self, other: Any) -> Any:
        return 1

    def __repr__(self) -> str:
        interrupt()
        return "interrupted"


POINTS: list[Any] = [
    (ModuleOperation, "start"),
    (ModuleOperation, "inputs"),
    (ModuleOperation, "outputs"),
    (ModuleOperation, "ended"),
    (ToolOperation, "start"),
    (ToolOperation, "inputs"),
    (ToolOperation, "outputs"),
    (ContentEncoder, "put"),
    (ContentEncoder, "clear_cache"),
    (call_module.Call, "open"),
    (call_module.Call, "_set"),
    (call_module, "restore_context"),
    (context_api, "attach"),
    (_metrics.Metrics, "look_for_provider"),
    "request_hook",
    "response_hook",
    "redact",
    "repr",
    "on_start",
    "on_end",
    "sampler",
]


def settings_for(point: Any) -> dict[str, Any]:
    if point == "sampler":
        return {"sampler": InterruptedSampler()}
    if point == "redact":
        return {"redact": lambda operation, field, value: (interrupt(), value)[1]}
    if point in ("request_hook", "response_hook"):
        return {point: interrupt}
    return {"sampler": ALWAYS_ON}


def run_program(mode: str, number: Any) -> None:
    if mode == "sync":
        PROGRAM(number=number)
    elif mode == "async":
        asyncio.run(PROGRAM.acall(number=number))
    else:
        asyncio.run(consume(Awaited().acall(number=number)))


async def consume(awaitable: Any) -> Any:
    return await awaitable


@pytest.mark.parametrize("mode", ["sync", "async", "awaitable"])
@pytest.mark.parametrize("point", POINTS, ids=str)
@pytest.mark.parametrize("error", [TimeLimit, ValueError, SystemExit, KeyboardInterrupt])
def test_an_exception_arrives_from_each_place(
    trace_with: TraceWith,
    monkeypatch: pytest.MonkeyPatch,
    handler: Handler,
    point: Any,
    mode: str,
    error: type[BaseException],
) -> None:
    handler.error = error
    traced, counting = trace_with(**settings_for(point)), Counting()
    traced.provider.add_span_processor(counting)
    if isinstance(point, tuple):
        owner, name = point
        monkeypatch.setattr(owner, name, interrupting(getattr(owner, name)))
    else:
        traced.provider.add_span_processor(Interrupting(point))
    before = context_api.get_current()
    number = Interrupted() if point == "repr" else 1
    Armed.once = True
    with pytest.raises(error) as raised:
        run_program(mode, number)
    assert handler.raised == 1
    monkeypatch.undo()
    assert context_api.get_current() == before
    assert set(counting.ended.values()) <= {1}
    assert counting.started.keys() == counting.ended.keys()
    if sys.version_info >= (3, 11):
        assert frames_of_ours(raised.tb) == []
    traced.clear()
    PROGRAM(number=1)
    assert traced.tree().startswith("invoke_workflow Program\n├─ execute_tool divide")


def frames_of_ours(steps: Any) -> list[str]:
    names = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(steps)]
    return [name for name in names if "opentelemetry" in name]


class Exiting:
    """A value of the program whose repr leaves the program, or is cancelled."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __rtruediv__(self, other: Any) -> Any:
        return 1

    def __repr__(self) -> str:
        raise self.error


@pytest.mark.parametrize("error", [SystemExit, asyncio.CancelledError, GeneratorExit, ValueError])
def test_an_exception_of_a_value_is_contained(traced: Traced, error: type[BaseException]) -> None:
    assert PROGRAM(number=Exiting(error)) == 1
    assert traced.content("execute_tool divide", "gen_ai.tool.call.arguments") == {
        "number": "[unreadable Exiting]"
    }


def raised_in(function: Callable[..., Any], *arguments: Any) -> BaseException:
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError


class Methods:
    def handle(self, signum: int, frame: Any) -> None:
        raise TimeLimit

    def forward(self, *args: Any) -> None:
        raise TimeLimit


@pytest.mark.parametrize(
    "handle", [Handler(), Methods().handle, Methods().forward, lambda s, f: 1 / 0]
)
def test_what_a_handler_raises_is_recognised(handle: Any) -> None:
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        assert raised_by_signal(raised_in(signal.raise_signal, signal.SIGUSR1))
    finally:
        signal.signal(signal.SIGUSR1, before)


def fails(number: int, frame: Any) -> None:
    raise ValueError


def test_what_other_code_raises_is_not_taken_for_it() -> None:
    assert not raised_by_signal(raised_in(int, "x"))
    assert not raised_by_signal(raised_in(fails, 1, "frame"))
    assert not raised_by_signal(raised_in(fails, 1, None))
    assert not raised_by_signal(ValueError())


STREAM_POINTS: list[Any] = [
    (ModuleOperation, "start"),
    (ModuleOperation, "inputs"),
    (ModuleOperation, "outputs"),
    (streaming._Stream, "begin"),
    (streaming._Stream, "enter"),
    (streaming._Stream, "leave"),
    (streaming._Stream, "record"),
    (streaming._Stream, "close"),
    (streaming, "begin_call"),
]


async def async_chunks(**kwargs: Any) -> Any:
    for number in range(2):
        yield number


def sync_chunks(**kwargs: Any) -> Any:
    yield from range(2)


@pytest.mark.parametrize("streamer", [async_chunks, sync_chunks])
@pytest.mark.parametrize("point", STREAM_POINTS, ids=str)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_exception_arrives_from_a_stream(
    trace_with: TraceWith,
    monkeypatch: pytest.MonkeyPatch,
    handler: Handler,
    point: Any,
    streamer: Any,
    when: str,
) -> None:
    owner, name = point
    monkeypatch.setattr(owner, name, interrupting(getattr(owner, name), when))
    traced, counting = trace_with(), Counting()
    traced.provider.add_span_processor(counting)
    runtime: Any = DSPyInstrumentor()._runtime
    stream = streaming._traced_streamer(runtime, PROGRAM, False, streamer)
    before = context_api.get_current()
    Armed.once = True
    with pytest.raises(TimeLimit):
        if streamer is sync_chunks:
            list(stream(number=1))
        else:
            asyncio.run(collect(stream(number=1)))
    assert handler.raised == 1
    assert context_api.get_current() == before
    assert set(counting.ended.values()) <= {1}
    assert counting.started.keys() == counting.ended.keys()


async def collect(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]
