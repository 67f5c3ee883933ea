# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import context

from mlflow_bridge import ConfigurationError
from mlflow_bridge._spans.trace_context import current_trace_context, trace_context


def current_session() -> str | None:
    values = current_trace_context()
    return values.session_id if values else None


def test_values_hold_inside_of_the_block_only() -> None:
    assert current_trace_context() is None
    with trace_context(session_id="s"):
        assert current_session() == "s"
    assert current_trace_context() is None


@pytest.mark.parametrize("given", ["team-a", "", "٣", "1.5"])
def test_an_experiment_id_that_is_no_number_is_an_error_at_once(given: str) -> None:
    with pytest.raises(ConfigurationError, match="experiment_id of trace_context"):
        trace_context(experiment_id=given)


def test_an_experiment_id_may_be_an_int() -> None:
    number: Any = 7
    with trace_context(experiment_id=number):
        values = current_trace_context()
    assert values is not None
    assert values.experiment_id == "7"


def test_values_are_removed_when_the_block_fails() -> None:
    with pytest.raises(ValueError), trace_context(session_id="s"):
        raise ValueError
    assert current_trace_context() is None


def test_the_block_works_as_a_decorator() -> None:
    decorated = trace_context(session_id="s")(current_session)
    assert (decorated(), decorated(), current_session()) == ("s", "s", None)


async def test_tasks_do_not_see_each_other() -> None:
    async def one(session: str) -> str | None:
        with trace_context(session_id=session):
            await asyncio.sleep(0)
            return current_session()

    assert await asyncio.gather(*map(one, "abc")) == ["a", "b", "c"]


def test_values_reach_threads_with_the_context() -> None:
    with trace_context(session_id="s"), ThreadPoolExecutor(1) as executor:
        copied = contextvars.copy_context()
        assert executor.submit(copied.run, current_session).result() == "s"
        assert executor.submit(current_session).result() is None


def test_a_generator_closed_elsewhere_logs_no_failed_detach(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    def generator() -> Generator[None, None, None]:
        with trace_context(session_id="s"):
            yield

    started = generator()
    contextvars.copy_context().run(next, started)
    contextvars.copy_context().run(started.close)
    assert not caplog.records
    assert context.get_current() == {}


def current_user() -> str | None:
    values = current_trace_context()
    return values.user_id if values else None


async def test_a_coroutine_function_runs_in_the_block() -> None:
    @trace_context(user_id="u")
    async def decorated() -> str | None:
        await asyncio.sleep(0)
        return current_user()

    assert inspect.iscoroutinefunction(decorated)
    assert decorated.__name__ == "decorated"
    assert await asyncio.gather(decorated(), decorated()) == ["u", "u"]
    assert current_user() is None


def test_each_step_of_a_generator_runs_in_the_block() -> None:
    @trace_context(user_id="u")
    def decorated() -> Generator[object, object, str]:
        given = yield current_user()
        try:
            yield given
        except KeyError:
            yield "caught"
        finally:
            ended.append(current_user())
        return "returned"

    ended: list[str | None] = []
    steps = decorated()
    assert (next(steps), current_user()) == ("u", None)
    assert steps.send("given") == "given"
    assert steps.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stopped:
        next(steps)
    assert (stopped.value.value, ended) == ("returned", ["u"])
    closed = decorated()
    next(closed)
    closed.send(1)
    closed.close()
    assert ended == ["u", "u"]


async def test_each_step_of_an_asynchronous_generator_runs_in_the_block() -> None:
    @trace_context(user_id="u")
    async def decorated() -> AsyncGenerator[object, object]:
        given = yield current_user()
        try:
            yield given
        except KeyError:
            yield "caught"
        finally:
            ended.append(current_user())

    ended: list[str | None] = []
    steps = decorated()
    assert (await steps.asend(None), current_user()) == ("u", None)
    assert await steps.asend("given") == "given"
    assert await steps.athrow(KeyError()) == "caught"
    await steps.aclose()
    assert ended == ["u"]
    assert [item async for item in decorated()] == ["u", None]
    assert ended == ["u", "u"]


def test_several_sessions_are_a_json_array() -> None:
    with trace_context(session_id=["a", "é"]):
        assert current_session() == '["a", "é"]'


def test_metadata_of_inner_blocks_is_added() -> None:
    with trace_context(metadata={"a": 1, "b": 1}), trace_context(metadata={"b": 2}):
        values = current_trace_context()
    assert values is not None
    assert (values.metadata, values.own_metadata) == ({"a": "1", "b": "2"}, {"b"})


def test_threads_may_share_a_block() -> None:
    block = trace_context(user_id="ada")
    both_inside = threading.Barrier(2)

    def enter() -> tuple[str | None, str | None]:
        with block:
            both_inside.wait(60)
            inside = current_user()
            both_inside.wait(60)
        return inside, current_user()

    with ThreadPoolExecutor(2) as executor:
        found = [executor.submit(enter) for _ in range(2)]
        assert [future.result() for future in found] == [("ada", None)] * 2


async def test_tasks_may_share_a_block() -> None:
    block = trace_context(user_id="ada")

    async def enter() -> tuple[str | None, str | None]:
        with block:
            await asyncio.sleep(0)
            inside = current_user()
        return inside, current_user()

    assert await asyncio.gather(enter(), enter()) == [("ada", None)] * 2
