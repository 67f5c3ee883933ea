# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Generator
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
    entered = trace_context(experiment_id=given)
    with pytest.raises(ConfigurationError, match="experiment_id of trace_context"):
        entered.__enter__()


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
