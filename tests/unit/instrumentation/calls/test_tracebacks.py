# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tracebacks are those of the program alone: agents put them into prompts and cache keys."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import dspy
import pytest

import opentelemetry.instrumentation.dspy as package
from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI
from tests.support.faults import Status
from tests.support.lms import DummyLM, EchoLM, FailingLM, served
from tests.unit.instrumentation.conftest import TraceWith

QA = "question -> answer"
OURS = str(Path(package.__file__).parent)

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="a frame cannot be taken out before Python 3.11"
)


def explode(reason: str = "x") -> None:
    raise LookupError(reason)


async def explode_slowly(reason: str = "x") -> None:
    raise LookupError(reason)


class Exploding(dspy.Module):
    def forward(self) -> None:
        explode()

    async def aforward(self) -> None:
        explode()


class Nested(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Exploding()

    def forward(self) -> None:
        try:
            self.inner()
        except LookupError as error:
            raise RuntimeError("outer") from error

    async def aforward(self) -> None:
        await self.inner.acall()


class OverridingLM(EchoLM):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        explode()

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        explode()


class BadAdapter(dspy.ChatAdapter):
    def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
        explode()


def failing_lm() -> FailingLM:
    return FailingLM(lambda: LookupError("x"))


def bad_adapter() -> None:
    with dspy.context(lm=EchoLM(), adapter=BadAdapter()):
        dspy.Predict(QA)(question="?")


def unparsable() -> None:
    with dspy.context(lm=EchoLM("nonsense"), adapter=dspy.JSONAdapter()):
        dspy.Predict(QA)(question="?")


def parallel_executor() -> None:
    executor = dspy.utils.parallelizer.ParallelExecutor(
        num_threads=1, max_errors=1, disable_progress_bar=True
    )
    executor.execute(lambda item: explode(), [1])


def uncacheable() -> None:
    dspy.cache.cache_key({"value": object()}, 5)  # type: ignore[arg-type]


SYNC = {
    "module": Exploding(),
    "nested": Nested(),
    "tool": lambda: dspy.Tool(explode)(reason="y"),
    "lm": lambda: failing_lm()("hello"),
    "overriding lm": lambda: OverridingLM()("hello"),
    "format": bad_adapter,
    "parse": unparsable,
    "parallel": parallel_executor,
    "cache key": uncacheable,
}
ASYNC = {
    "module": lambda: Exploding().acall(),
    "nested": lambda: Nested().acall(),
    "tool": lambda: dspy.Tool(explode_slowly).acall(reason="y"),
    "lm": lambda: failing_lm().acall("hello"),
    "overriding lm": lambda: OverridingLM().acall("hello"),
}


def frames_of(error: BaseException | None) -> list[Any]:
    frames: list[Any] = []
    while error is not None:
        frames += traceback.extract_tb(error.__traceback__)
        error = error.__cause__ or error.__context__
    return [(frame.filename, frame.lineno, frame.name) for frame in frames]


def sync_failure(action: Any) -> BaseException:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


async def async_failure(action: Any) -> BaseException:
    try:
        await action()
    except Exception as error:
        return error
    raise AssertionError("it did not raise")


@pytest.mark.parametrize("action", SYNC.values(), ids=SYNC)
def test_same_frames(trace_with: TraceWith, action: Any) -> None:
    before = sync_failure(action)
    trace_with()
    during = sync_failure(action)
    assert frames_of(during) == frames_of(before)
    assert type(during) is type(before)
    assert not any(OURS in frame[0] for frame in frames_of(during))


@pytest.mark.parametrize("action", ASYNC.values(), ids=ASYNC)
async def test_same_frames_asynchronously(trace_with: TraceWith, action: Any) -> None:
    before = await async_failure(action)
    trace_with()
    during = await async_failure(action)
    assert frames_of(during) == frames_of(before)


def test_the_error_of_a_provider(trace_with: TraceWith, server: FakeOpenAI) -> None:
    trace_with()
    server.fail_with(*[Status(400, '{"error":{"message":"no"}}')] * 3)
    error = sync_failure(lambda: served(server, num_retries=0)("hello"))
    assert not any(OURS in frame[0] for frame in frames_of(error))


def test_an_exception_raised_again_keeps_its_frames(trace_with: TraceWith) -> None:
    kept: list[BaseException] = []

    class Again(dspy.Module):
        def forward(self) -> None:
            if not kept:
                kept.append(sync_failure(explode))
            raise kept[0]

    def both() -> list[Any]:
        kept.clear()
        program = Again()
        first = frames_of(sync_failure(program))
        return [first, frames_of(sync_failure(program))]

    before = both()
    trace_with()
    assert both() == before


STEPS = [
    {"next_thought": "t", "next_tool_name": "explode", "next_tool_args": {"reason": "y"}},
    {"next_thought": "t", "next_tool_name": "explode", "next_tool_args": {"nonsense": "y"}},
    {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}},
    {"reasoning": "r", "answer": "a"},
]


def agent_prompts() -> list[Any]:
    lm = DummyLM(STEPS)
    with dspy.context(lm=lm):
        result = dspy.ReAct(QA, tools=[explode])(question="?")
    assert "Traceback" in str(result.trajectory) or "explode" in str(result.trajectory)
    return [entry["messages"] for entry in lm.history]


async def agent_prompts_async() -> list[Any]:
    lm = DummyLM([{**STEPS[0], "next_tool_name": "explode_slowly"}, *STEPS[2:]])
    with dspy.context(lm=lm):
        await dspy.ReAct(QA, tools=[explode_slowly]).acall(question="?")
    return [entry["messages"] for entry in lm.history]


async def test_an_agents_prompts_after_an_error(trace_with: TraceWith) -> None:
    before = agent_prompts(), await agent_prompts_async()
    trace_with()
    assert (agent_prompts(), await agent_prompts_async()) == before


def test_cache_keys_are_the_same(trace_with: TraceWith, server: FakeOpenAI, tmp_path: Path) -> None:
    def run() -> Any:
        replies = [chat_text(**step) for step in STEPS]  # type: ignore[arg-type]
        server.reply_with(*replies)
        with dspy.context(lm=served(server, cache=True)):
            return dspy.ReAct(QA, tools=[explode])(question="?").toDict()

    before = dspy.cache
    dspy.configure_cache(disk_cache_dir=str(tmp_path / "cache"))
    try:
        first = run()
        asked = len(server.requests)
        traced = trace_with()
        assert run() == first
    finally:
        dspy.cache = before
    assert len(server.requests) == asked
    assert traced.names().count("chat gpt-4o-mini") == asked
