# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls that end in another context, never, or before what they started; and what is kept."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import threading
import warnings
import weakref
from typing import Any

import dspy
import pytest
from opentelemetry import trace

from tests.support.traced import Traced, uninstrument

pytestmark = pytest.mark.surface("asyncio")


class Forever:
    def __await__(self) -> Any:
        yield


def begun_elsewhere(coroutine: Any) -> Any:
    """The coroutine, waiting half-way in a context that is not the one it will end in."""
    contextvars.copy_context().run(coroutine.send, None)
    return coroutine


def test_a_coroutine_that_is_never_finished(traced: Traced, telemetry_log: Any) -> None:
    async def wait() -> None:
        await Forever()

    coroutine = begun_elsewhere(dspy.Tool(wait).acall())
    del coroutine
    gc.collect()
    assert traced.tree() == "execute_tool wait ERROR(GeneratorExit)"
    assert telemetry_log.take() == []


def test_a_coroutine_that_is_never_started(traced: Traced) -> None:
    class Handing(dspy.Module):
        def acall(self, *args: Any, **kwargs: Any) -> Any:
            return super().acall(*args, **kwargs)

        async def aforward(self) -> None: ...

    def caught() -> list[str]:
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always")
            Handing().acall()
            gc.collect()
        return [str(warning.message) for warning in recorded]

    while_traced = caught()
    assert traced.tree() == "invoke_workflow Handing ERROR(GeneratorExit)"
    uninstrument()
    assert caught() == while_traced == ["coroutine 'Module.acall' was never awaited"]


def test_a_coroutine_that_is_closed_elsewhere(traced: Traced, telemetry_log: Any) -> None:
    class Waiting(dspy.Module):
        async def aforward(self) -> None:
            await Forever()

    coroutine = begun_elsewhere(Waiting().acall())
    # This one is DSPy's, which resets its settings in the wrong context.
    with pytest.raises(ValueError, match="different Context"):
        coroutine.close()
    assert traced.tree() == "invoke_workflow Waiting ERROR(ValueError)"
    assert telemetry_log.take() == []


async def test_an_event_loop_that_ends_with_tasks_under_way(
    traced: Traced, telemetry_log: Any
) -> None:
    class Waiting(dspy.Module):
        async def aforward(self) -> None:
            await asyncio.Event().wait()

    def abandon() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(Waiting().acall())
        loop.run_until_complete(asyncio.sleep(0.01))
        task.get_coro().close()  # type: ignore[union-attr]
        loop.close()

    thread = threading.Thread(target=abandon)
    thread.start()
    thread.join()
    gc.collect()
    assert len(traced.spans) == 1
    assert telemetry_log.take() == []


async def test_a_task_that_outlives_its_call_keeps_no_inputs(traced: Traced) -> None:
    class Payload:
        pass

    go_on = asyncio.Event()

    class Program(dspy.Module):
        async def aforward(self, payload: Any) -> Any:
            return asyncio.create_task(go_on.wait())

    payload = Payload()
    kept = weakref.ref(payload)
    task = await Program().acall(payload=payload)
    del payload
    gc.collect()
    assert kept() is None
    go_on.set()
    await task


@pytest.mark.parametrize("outcome", ["result", "error"])
def test_nothing_of_a_program_is_kept(traced: Traced, outcome: str) -> None:
    class Payload:
        pass

    class Signature(dspy.Signature):
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    class Holder(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.signature = Signature

        def forward(self, payload: Any) -> Any:
            if outcome == "error":
                raise ValueError("no")
            return payload

    def run() -> list[Any]:
        program, payload = Holder(), Payload()
        with contextlib.suppress(ValueError):
            program(payload=payload)
        return [weakref.ref(program), weakref.ref(payload)]

    kept = run()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


@pytest.mark.parametrize("fails", [False, True])
def test_a_span_that_other_code_has_ended(
    traced: Traced, telemetry_log: Any, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    class Ended(dspy.Module):
        def forward(self, question: str) -> dspy.Prediction:
            # As those that are open at the end of a process are, for they are to be delivered.
            trace.get_current_span().end()
            if fails:
                raise LookupError("no")
            return dspy.Prediction(answer=question)

    with caplog.at_level(logging.WARNING), contextlib.suppress(LookupError):
        Ended()(question="any")
    assert traced.tree() == "invoke_workflow Ended"
    assert telemetry_log.take() == []
    assert [record.getMessage() for record in caplog.records] == []
