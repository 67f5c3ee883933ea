# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of sampling choose the same traces in a collector and in another process."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import dspy
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

import mlflow_bridge
from mlflow_bridge.sampling.keys import is_in_share, number_of
from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import SDK
from tests.support.fake_tracking_server import FakeTrackingServer, spans_in
from tests.support.otlp_collector import StubCollector

pytestmark = pytest.mark.integration

TRACES = 300
RATES = (0.1, 0.5, 0.9)

BY_KEY = """
import mlflow_bridge
from mlflow_bridge import trace_context

with mlflow_bridge.autolog(
    sampling_rate=0.5, sampling_key="session", spool=False, exit_timeout_seconds=0
):
    for number in range(40):
        with trace_context(session_id=f"session-{number}"):
            span = trace.get_tracer("program").start_span("request")
            if span.is_recording():
                print(number)
            span.end()
"""
FORKED = """
import os, sys
import mlflow_bridge

client = mlflow_bridge.autolog(traces="all")
client.reconfigure(enabled=False)
work("left out in the parent")
if os.fork() == 0:
    work("left out in the child")
    client.reconfigure(enabled=True, sampling_rate=1, custom_tags={"where": "child"})
    work("of the child")
    done = client.flush(60)
    os._exit(0 if done else 1)
_, status = os.wait()
work("still left out in the parent")
print(os.waitstatus_to_exitcode(status), client.config.enabled, client.flush(60))
if os.fork() == 0:
    # As a worker of a server that calls autolog() when it starts.
    mlflow_bridge.autolog(enabled=True)
    work("of a worker")
    os._exit(0 if client.flush(60) else 1)
_, status = os.wait()
print(os.waitstatus_to_exitcode(status))
"""


class Quick(dspy.Module):
    """A program without a model."""

    inner: dspy.Module | None = None

    def forward(self, number: int) -> int:
        return number if self.inner is None else self.inner(number)


class Seeded(IdGenerator):
    """Trace ids that repeat."""

    def __init__(self) -> None:
        self._random = random.Random(7)

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1

    def generate_span_id(self) -> int:
        return random.Random().getrandbits(64) or 1


@pytest.mark.parametrize("rate", RATES)
def test_a_collector_gets_the_traces_of_the_ratio_sampler(
    rate: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_SPOOL_DIRECTORY", str(tmp_path))
    generator, sampler = Seeded(), TraceIdRatioBased(rate)
    ids = [generator.generate_trace_id() for _ in range(TRACES)]
    kept = {
        one for one in ids if sampler.should_sample(None, one, "span").decision is not Decision.DROP
    }
    provider = TracerProvider(id_generator=Seeded(), shutdown_on_exit=False)
    server = FakeTrackingServer()
    with server.http, StubCollector() as collector:
        exporter = OTLPSpanExporter(f"{collector.http_endpoint}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter))
        with mlflow_bridge.autolog(
            tracking_uri=server.http.url, tracer_provider=provider, sampling_rate=rate
        ) as client:
            program = Quick()
            for number in range(TRACES):
                program(number)
            assert client.flush(60)
            assert provider.force_flush()
        found = {int(span.trace_id, 16) for span in collector.spans()}
        assert found == kept
        provider.shutdown()


def test_each_kept_trace_is_complete_in_mlflow_and_elsewhere(store_uri: str) -> None:
    provider = TracerProvider(id_generator=Seeded(), shutdown_on_exit=False)
    everything = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(everything))
    with mlflow_bridge.autolog(
        tracking_uri=store_uri, tracer_provider=provider, sampling_rate=0.15
    ) as client:
        program = Quick()
        program.inner = Quick()
        for number in range(500):
            program(number)
        assert client.flush(120)
    spans = Counter(span.context.trace_id for span in everything.get_finished_spans())
    assert 40 < len(spans) < 100
    stored = {
        int(trace.info.trace_id.removeprefix("tr-"), 16): len(trace.data.spans)
        for trace in stored_traces(store_uri)
    }
    assert stored == spans
    assert set(stored.values()) == {2}
    provider.shutdown()


def test_two_processes_choose_the_same_sessions(tmp_path: Path) -> None:
    environment = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "PYTHONHASHSEED": "1"}
    first = run_program(BY_KEY, tmp_path, environment, zygote=SDK)
    second = run_program(BY_KEY, tmp_path, environment | {"PYTHONHASHSEED": "2"})
    chosen = [n for n in range(40) if is_in_share(number_of(f"session-{n}"), 0.5)]
    assert 0 < len(chosen) < 40
    assert [*map(int, first.stdout.split())] == [*map(int, second.stdout.split())] == chosen


def test_forked_workers_switch_for_themselves(tmp_path: Path) -> None:
    server = FakeTrackingServer()
    with server.http:
        done = run_program(FORKED, tmp_path, {"MLFLOW_TRACKING_URI": server.http.url}, zygote=SDK)
        assert done.stdout.split() == ["0", "False", "True", "0"]
        assert sorted(name for one in server.trace_requests for name in spans_in(one)) == [
            "of a worker",
            "of a worker step",
            "of the child",
            "of the child step",
        ]
