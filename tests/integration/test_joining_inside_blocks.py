# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's own blocks that are open while its tracing is joined or separated."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.traced_program import Finished, run_program, stored_traces
from tests.support.children import MLFLOW

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow.entities import Trace

pytestmark = pytest.mark.integration

PREAMBLE = """
import asyncio
import os
import threading

import mlflow
import mlflow_bridge
from opentelemetry import trace


def is_outside():
    return mlflow.get_current_active_span() is None and not trace.get_current_span().is_recording()
"""

JOINED_BELOW = """
entered, joined, left, separated = (threading.Event() for _ in range(4))
ends = []


@mlflow.trace
def function():
    entered.set()
    joined.wait(60)
    return 7


@mlflow.trace
def steps():
    yield 1
    yield 2


def work():
    iterated = steps()
    next(iterated)
    with mlflow.start_span("own") as span:
        assert function() == 7
        span.set_outputs("done")
    assert list(iterated) == [2]
    ends.append(is_outside())
    with mlflow.start_span("afterwards"):
        pass
    left.set()
    separated.wait(60)
    ends.append(is_outside())


thread = threading.Thread(target=work)
thread.start()
entered.wait(60)
mlflow_bridge.autolog()
assert os.environ["MLFLOW_USE_DEFAULT_TRACER_PROVIDER"] == "false"
joined.set()
left.wait(60)
mlflow_bridge.disable_autolog()
separated.set()
thread.join()
assert ends == [True, True], ends
assert is_outside()
"""

SEPARATED_INSIDE = """
mlflow_bridge.autolog()


@mlflow.trace
async def coroutine():
    await asyncio.sleep(0)
    mlflow_bridge.disable_autolog()
    with mlflow.start_span("inner"):
        await asyncio.sleep(0)
    return 7


with mlflow.start_span("ours") as span:
    span.set_inputs({"q": 1})
    assert asyncio.run(coroutine()) == 7
assert is_outside()
with mlflow.start_span("theirs"):
    assert mlflow.get_current_active_span() is not None
assert is_outside()
mlflow.flush_trace_async_logging()

from mlflow.tracing.trace_manager import InMemoryTraceManager

assert not InMemoryTraceManager.get_instance()._traces
"""

REPEATED = """
mlflow_bridge.autolog()
with mlflow.start_span("first"):
    mlflow_bridge.disable_autolog()
    with mlflow.start_span("second"):
        mlflow_bridge.autolog()
        assert mlflow.get_current_active_span() is not None
    assert mlflow.get_current_active_span() is None
    mlflow_bridge.autolog()
    with mlflow.start_span("third"):
        mlflow_bridge.disable_autolog()
assert is_outside()
mlflow_bridge.autolog()
with mlflow.start_span("last"):
    pass
assert is_outside()
try:
    with mlflow.start_span("failing"):
        mlflow_bridge.disable_autolog()
        raise KeyError("of the program")
except KeyError:
    pass
assert is_outside()
mlflow.flush_trace_async_logging()
"""


def run(source: str, tmp_path: Path, uri: str) -> Finished:
    done = run_program(PREAMBLE + source, tmp_path, {"MLFLOW_TRACKING_URI": uri}, zygote=MLFLOW)
    for complaint in ("Traceback", "detach", "ended span"):
        assert done.log_lines(complaint) == [], done.stderr
    return done


def by_root(uri: str) -> dict[str, Trace]:
    traces = {
        span.name: trace
        for trace in stored_traces(uri)
        for span in trace.data.spans
        if span.parent_id is None
    }
    assert len(traces) == len(stored_traces(uri))
    return traces


def test_a_block_below_which_tracing_is_joined_ends_with_mlflow(
    store_uri: str, tmp_path: Path
) -> None:
    run(JOINED_BELOW, tmp_path, store_uri)
    traces = by_root(store_uri)
    assert traces.keys() == {"own", "steps", "afterwards"}
    assert {span.name for span in traces["own"].data.spans} == {"own", "function"}
    assert {trace.info.state.value for trace in traces.values()} == {"OK"}
    assert traces["own"].data.spans[0].outputs == "done"


def test_a_block_in_which_tracing_is_separated_ends_as_joint(
    store_uri: str, tmp_path: Path
) -> None:
    run(SEPARATED_INSIDE, tmp_path, store_uri)
    traces = by_root(store_uri)
    # disable_autolog() sends no further spans: "ours" ends after it.
    assert traces.keys() == {"inner", "theirs"}
    assert {trace.info.state.value for trace in traces.values()} == {"OK"}


def test_tracing_may_be_joined_and_separated_again_in_blocks(
    store_uri: str, tmp_path: Path
) -> None:
    run(REPEATED, tmp_path, store_uri)
    traces = by_root(store_uri)
    assert {"second", "last"} <= traces.keys()
    assert {trace.info.state.value for trace in traces.values()} == {"OK"}
