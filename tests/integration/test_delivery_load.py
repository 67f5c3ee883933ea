# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""More spans than the destination takes at the time, and none is lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig, MLflowSpanExporter
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.status import DeliveryStatus
from tests.integration.span_sink import SpanSink, wait_for
from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.fake_delivery import (
    FAST,
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    tracer_for,
)
from tests.support.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration

STEPS = 4
SPANS = STEPS + 2
"""In one trace."""
TOKENS = 3 + 4
BURSTS = pytest.mark.parametrize("burst", [200, pytest.param(2000, marks=pytest.mark.scale)])
"""Traces."""


@contextmanager
def traced(processor: DeliveryProcessor) -> Iterator[Tracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    try:
        yield provider.get_tracer("test")
    finally:
        provider.shutdown()


def test_spans_at_full_speed_and_a_destination_that_stands_still(tmp_path: Path) -> None:
    still = HangingDelivery()
    with bounded(still, tmp_path) as processor:
        end_named_spans(processor, 6_000)
        wait_for(lambda: processor.status().spilled > 2_000, "spans to be spilled")
        still.release.set()
        assert_all_arrive(processor, still, 6_000)


@pytest.mark.scale
def test_a_hundred_thousand_spans_at_full_speed_and_a_slow_destination(tmp_path: Path) -> None:
    slow = FakeDelivery(seconds=0.05)
    with bounded(slow, tmp_path) as processor:
        end_named_spans(processor, 100_000)
        assert_all_arrive(processor, slow, 100_000)


@contextmanager
def bounded(delivery: FakeDelivery, tmp_path: Path) -> Iterator[DeliveryProcessor]:
    """A processor with few places in memory, and none to wait for."""
    processor = DeliveryProcessor(
        delivery, max_queue_size=2048, spool=Spool(tmp_path / "spool"), block_seconds=0.0
    )
    try:
        yield processor
    finally:
        processor.close()


def end_named_spans(processor: DeliveryProcessor, count: int) -> None:
    tracer = tracer_for(processor)
    for n in range(count):
        tracer.start_span(f"{n}", attributes={"text": "x" * 300}).end()


def assert_all_arrive(processor: DeliveryProcessor, delivery: FakeDelivery, count: int) -> None:
    wait_for(lambda: is_settled(processor.status()), "the spool to be delivered")
    status = processor.status()
    assert (status.dropped, status.spool_dropped, status.missing) == (0, 0, 0)
    assert len(delivery.names) == count
    assert set(delivery.names) == {f"{n}" for n in range(count)}


def is_settled(status: DeliveryStatus) -> bool:
    return status.queued == status.kept == 0


@pytest.mark.parametrize("thousands", [5, pytest.param(20, marks=pytest.mark.scale)])
def test_an_outage_under_load(thousands: int, tmp_path: Path) -> None:
    """What waits for the server is on disk, not in memory; then all of it arrives, in order."""
    text = "x" * 4000
    with SpanSink() as sink:
        config = MLflowDSPyConfig(tracking_uri=sink.http.url)
        processor = DeliveryProcessor(
            MLflowSpanExporter(config=config),
            spool=Spool(tmp_path / "spool"),
            max_queue_size=2000,
            schedule_delay_seconds=0.01,
            backoff=FAST,
            spill_after_seconds=0.1,
        )
        with traced(processor) as tracer:
            made = end_spans(tracer, 0, text, lambda n: processor.status().stored > 500)
            sink.http.stop()
            before = resident_bytes()
            for _ in range(thousands):
                made = end_spans(tracer, made, text, lambda n, goal=made + 1000: n >= goal)
                # A steady load, and not one that no disk keeps up with.
                wait_for(lambda: processor.status().queued <= 3000, "spans to be spilled")
            assert processor.status().spilled > thousands * 1000 / 2 - 500
            if thousands > 10:
                # All of these spans would be twice that much; few are lost among all else.
                assert resident_bytes() - before < thousands * 1000 * len(text) / 2
            sink.http.start()
            made = end_spans(tracer, made, text, lambda n: n > made + 500)
            wait_for(lambda: is_settled(processor.status()), "the spool to be delivered")
        assert processor.status().missing == 0
        assert sink.stored().keys() == {f"{n}" for n in range(made)}


def end_spans(tracer: Tracer, first: int, text: str, done: Callable[[int], bool]) -> int:
    """End spans until that is done; the number of the next one."""
    number = first
    while not done(number):
        tracer.start_span(f"{number}", attributes={"text": f"{number} {text}"}).end()
        number += 1
    return number


def resident_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc")
    [line] = [row for row in status.read_text().splitlines() if row.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


@BURSTS
def test_a_burst_into_a_store(burst: int, store_uri: str, tmp_path: Path) -> None:
    end_a_burst(burst, store_uri, tmp_path)
    assert spans_and_traces(store_uri, f"burst of {burst}") == (burst * SPANS, burst)


@BURSTS
def test_a_burst_into_a_server(burst: int, shared_server: MLflowServer, tmp_path: Path) -> None:
    end_a_burst(burst, shared_server.uri, tmp_path)
    stored = spans_and_traces(shared_server.store_uri, f"burst of {burst}")
    assert stored == (burst * SPANS, burst)


def end_a_burst(burst: int, uri: str, tmp_path: Path) -> None:
    """MLflow's own exporter loses most traces of a burst of thousands."""
    config = MLflowDSPyConfig(
        tracking_uri=uri,
        experiment_name=f"burst of {burst}",
        spool_directory=tmp_path / "spool",
        exit_timeout_seconds=300.0,
    )
    processor = MLflowBatchSpanProcessor(config)
    with traced(processor) as tracer:
        for n in range(burst):
            chat = {"gen_ai.operation.name": "chat"}
            with tracer.start_as_current_span(f"trace {n}", attributes=chat):
                for step in range(STEPS + 1):
                    tracer.start_span(f"step {step}").end()
    assert processor.status().missing == 0


PROCESSES, THREADS = 4, 4
TRACES = pytest.mark.parametrize("traces", [2, pytest.param(12, marks=pytest.mark.scale)])
"""In each thread."""
EVERYBODY = f"""
    import os, threading
    import mlflow_bridge

    mlflow_bridge.autolog()
    tracer = trace.get_tracer("program")

    def one_trace(name):
        with tracer.start_as_current_span(name):
            for step in range({STEPS}):
                tracer.start_span(f"step {{step}}").end()
            usage = {{"gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4}}
            chat = {{"gen_ai.operation.name": "chat", **usage}}
            tracer.start_span("chat", attributes=chat).end()

    def many_traces():
        for n in range(int(os.environ["TRACES"])):
            one_trace(f"trace {{n}}")

    for _ in range({PROCESSES}):
        if os.fork() == 0:
            threads = [threading.Thread(target=many_traces) for _ in range({THREADS})]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            break
    else:
        for _ in range({PROCESSES}):
            assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
"""


def run_everybody(uri: str, traces: int, tmp_path: Path) -> str:
    environment = {
        "TRACES": str(traces),
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_EXPERIMENT_NAME": f"everybody {traces}",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    return run_program(EVERYBODY, tmp_path, environment, zygote=MLFLOW).stderr


@TRACES
def test_processes_with_threads_into_one_store(traces: int, store_uri: str, tmp_path: Path) -> None:
    log = run_everybody(store_uri, traces, tmp_path)
    assert_everything_is_in(store_uri, traces)
    assert log == ""


@TRACES
def test_processes_with_threads_into_one_server(
    traces: int, shared_server: MLflowServer, tmp_path: Path
) -> None:
    logged_before = len(shared_server.log)
    log = run_everybody(shared_server.uri, traces, tmp_path)
    assert "locked" not in shared_server.log[logged_before:]
    assert_everything_is_in(shared_server.store_uri, traces)
    assert log == ""


def assert_everything_is_in(store_uri: str, traces_of_a_thread: int) -> None:
    from mlflow import MlflowClient

    traces = PROCESSES * THREADS * traces_of_a_thread
    name = f"everybody {traces_of_a_thread}"
    assert spans_and_traces(store_uri, name) == (traces * SPANS, traces)
    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_traces(
        locations=[experiment.experiment_id], max_results=500, include_spans=False
    )
    assert [trace.info.token_usage["total_tokens"] for trace in found] == [TOKENS] * traces
    assert {str(trace.info.state.value) for trace in found} == {"OK"}


def spans_and_traces(store_uri: str, experiment: str) -> tuple[int, int]:
    """The numbers of both in an experiment, without MLflow reading all of them."""

    def rows(table: str) -> int:
        [(count,)] = store.execute(
            f"SELECT count(*) FROM {table} WHERE experiment_id = "
            "(SELECT experiment_id FROM experiments WHERE name = ?)",
            [experiment],
        ).fetchall()
        return count

    with sqlite3.connect(store_uri.removeprefix("sqlite:///")) as store:
        return rows("spans"), rows("trace_info")
