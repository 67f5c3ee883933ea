# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What ``client.flush()`` promises, and that it keeps to its time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from importlib import import_module

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge import AutologClient, FinishedTrace, autolog, disable_autolog
from mlflow_bridge._export.contract import Outcome
from mlflow_bridge._setup import zero_code
from mlflow_bridge._spans.annotation import Annotation, annotate
from tests.unit.bridge.fake_exporter import (
    FakeExporter,
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)
from tests.unit.bridge.setup.test_autolog import FakeInstrumentor

PATIENCE = 60.0


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExporterModule]:
    """As if autolog() had never been called here, with nothing of MLflow and DSPy."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setattr("opentelemetry.instrumentation.dspy.DSPyInstrumentor", FakeInstrumentor())
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    yield install_fake_exporter(monkeypatch)
    disable_autolog()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


def test_all_that_ended_in_any_thread_is_delivered_and_was_looked_at(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    client = autolog(schedule_delay_seconds=3600)
    seen: list[list[FinishedTrace]] = [[], []]
    for traces in seen:
        client.add_trace_processor(traces.append)

    def work(thread: int) -> None:
        tracer = provider.current.get_tracer("test")
        for index in range(50):
            with tracer.start_as_current_span(f"{thread}/{index}"):
                tracer.start_span("step").end()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.flush(PATIENCE)
    assert len(exporters.made[0].names) == 800
    assert [len(traces) for traces in seen] == [400, 400]


def test_what_a_trace_processor_logs_is_delivered_and_keeps_the_trace(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    client = autolog(schedule_delay_seconds=3600, tail_rate=0, tail_score_below={"safe": 0.5})

    def judge(trace: FinishedTrace) -> None:
        content = {"assessment_name": "safe", "feedback": {"value": trace.name == "good"}}
        annotate(Annotation(trace.id, assessment=content), int(trace.id[3:], 16))

    client.add_trace_processor(judge)
    for name in ("good", "bad"):
        tracer = provider.current.get_tracer("test")
        tracer.start_span(name, attributes={"gen_ai.operation.name": "chat"}).end()
    assert client.flush(PATIENCE)
    assert exporters.made[0].names == ["bad", "annotation"]


def test_a_flush_in_each_thread_waits_for_the_traces_of_that_thread(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    client = autolog(schedule_delay_seconds=3600)
    seen: list[str] = []
    client.add_trace_processor(lambda trace: seen.append(trace.name))
    missing: list[str] = []

    def work(thread: int) -> None:
        for index in range(20):
            provider.record(f"{thread}/{index}")
            is_complete = client.flush(PATIENCE)
            name = f"{thread}/{index}"
            if not (is_complete and name in exporters.made[0].names and name in seen):
                missing.append(name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []


def test_it_is_false_while_mlflow_does_not_answer_and_true_later(
    exporters: FakeExporterModule, provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    deliver = FakeExporter.deliver

    def slow(self: FakeExporter, spans: Sequence[ReadableSpan]) -> Outcome:
        answers.wait(PATIENCE)
        return deliver(self, spans)

    monkeypatch.setattr(FakeExporter, "deliver", slow)
    client = autolog()
    provider.record("one")
    assert not client.flush(0.1)
    assert not client.flush(0)
    answers.set()
    assert client.flush(PATIENCE)
    assert exporters.made[0].names == ["one"]


def test_it_does_not_tell_again_what_a_replaced_destination_misses(
    exporters: FakeExporterModule, provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = threading.Event()
    deliver = FakeExporter.deliver

    def hangs_at_first(self: FakeExporter, spans: Sequence[ReadableSpan]) -> Outcome:
        if self is exporters.made[0]:
            ends.wait(PATIENCE)
        return deliver(self, spans)

    monkeypatch.setattr(FakeExporter, "deliver", hangs_at_first)
    client = autolog(
        tracking_uri="http://127.0.0.1:1/first", spool=False, exit_timeout_seconds=0.05
    )
    provider.record("before")
    client.reconfigure(tracking_uri="http://127.0.0.1:1/second", exit_timeout_seconds=PATIENCE)
    provider.record("after")
    try:
        assert client.flush(PATIENCE)
        assert exporters.made[-1].names == ["after"]
    finally:
        ends.set()


def test_it_is_false_while_a_trace_processor_does_not_return(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    goes_on = threading.Event()
    client = autolog()
    client.add_trace_processor(lambda _: goes_on.wait(PATIENCE))
    provider.record("one")
    assert not client.flush(0.1)
    goes_on.set()
    assert client.flush(PATIENCE)


def test_a_trace_processor_that_flushes_does_not_wait_for_itself(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    client: AutologClient = autolog()
    results: list[bool] = []
    client.add_trace_processor(lambda _: results.append(client.flush(PATIENCE)))
    provider.record("one")
    assert client.flush(PATIENCE)
    assert results == [True]


def test_a_span_that_is_open_is_not_waited_for(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    client = autolog()
    span = provider.current.get_tracer("test").start_span("open")
    assert client.flush(PATIENCE)
    assert exporters.made[0].names == []
    span.end()
    assert client.flush(PATIENCE)
    assert exporters.made[0].names == ["open"]
