# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The setting ``enabled``: a bridge that is off from the start, and one that is switched."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from importlib import import_module

import dspy
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bridge import (
    ConfigurationError,
    MLflowBatchSpanProcessor,
    MLflowDSPyConfig,
    autolog,
    disable_autolog,
    get_autolog_client,
)
from mlflow_bridge._setup import zero_code
from mlflow_bridge._setup.pausing import BY_MLFLOW, follow_mlflow, resume
from opentelemetry.instrumentation.dspy import DSPyInstrumentor, set_default_arguments
from tests.support.instrumented import DEPRECATED
from tests.support.lms import EchoLM
from tests.unit.bridge.fake_exporter import (
    FakeExporter,
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)
from tests.unit.bridge.setup.test_recording_at_run_time import WHOLE, Outer, delivered, run

import_module("mlflow_bridge._setup.processor")  # before its exporter is replaced
pytestmark = pytest.mark.filterwarnings(DEPRECATED)
REMOTE = trace.set_span_in_context(
    trace.NonRecordingSpan(trace.SpanContext(5, 5, is_remote=True, trace_flags=trace.TraceFlags(1)))
)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


@pytest.fixture
def exporters(
    monkeypatch: pytest.MonkeyPatch, provider: GlobalProvider
) -> Iterator[FakeExporterModule]:
    """As if autolog() had never been called here."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    yield install_fake_exporter(monkeypatch)
    disable_autolog()
    resume(BY_MLFLOW)
    if DSPyInstrumentor().is_instrumented_by_opentelemetry:
        DSPyInstrumentor().uninstrument()
    set_default_arguments()


@pytest.mark.parametrize("way", ["argument", "variable", "OpenTelemetry"])
def test_nothing_is_made_for_a_bridge_that_is_off(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    proxy = provider.current
    if way == "variable":
        monkeypatch.setenv("MLFLOW_DSPY_ENABLED", "false")
    if way == "OpenTelemetry":
        monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
    client = autolog(enabled=False) if way == "argument" else autolog()
    run()
    assert client.config.enabled is False
    assert client.flush(0)
    assert exporters.made == []
    assert provider.current is proxy
    assert not DSPyInstrumentor().is_instrumented_by_opentelemetry
    assert isinstance(client.status(), tuple)
    assert get_autolog_client() is client
    client.add_trace_processor(print)
    assert client.flush(0)
    disable_autolog()
    assert get_autolog_client() is None


def test_a_bridge_that_was_off_from_the_start_can_be_switched_on(
    exporters: FakeExporterModule,
) -> None:
    client = autolog(enabled=False, custom_tags={"team": "search"})
    names: list[str] = []
    client.add_trace_processor(lambda trace: names.append(trace.name))
    run()
    client.reconfigure(enabled=True)
    assert client.config.custom_tags == {"team": "search"}
    run()
    assert delivered(client, exporters) == WHOLE
    assert len(names) == 1


def test_opentelemetrys_switch_stands_above_the_setting(
    exporters: FakeExporterModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    client = autolog(enabled=True)
    client.reconfigure(enabled=True)
    assert client.config.enabled is False
    assert exporters.made == []


def test_calls_after_the_switch_are_not_recorded(exporters: FakeExporterModule) -> None:
    client = autolog()
    run()
    client.reconfigure(enabled=False)
    run()
    trace.get_tracer_provider().get_tracer("program").start_span("of another library").end()
    assert delivered(client, exporters) == WHOLE
    client.reconfigure(enabled=True)
    run()
    assert delivered(client, exporters) == WHOLE
    assert len(exporters.made) == 1


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_trace_that_is_open_at_the_switch_is_complete(
    exporters: FakeExporterModule, is_moved: bool
) -> None:
    client = autolog()
    tracer = trace.get_tracer_provider().get_tracer("program")
    with tracer.start_as_current_span("request"):
        run()
        client.reconfigure(enabled=False)
        if is_moved:
            client.reconfigure(tracking_uri="sqlite:///other.db")
        tracer.start_span("late").end()
    assert Counter(delivered(client, exporters)) == Counter([*WHOLE, "late", "request"])


def test_a_dspy_call_that_is_open_at_the_switch_is_complete(
    exporters: FakeExporterModule,
) -> None:
    client = autolog()

    class Switching(Outer):
        def forward(self, question: str) -> object:
            client.reconfigure(enabled=False)
            return self.inner(question)

    with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
        Switching()("why?")
        Switching()("why?")
    names = delivered(client, exporters)
    assert names == [*WHOLE[:-1], "invoke_workflow Switching"]


def test_a_trace_that_began_while_it_was_off_stays_absent(exporters: FakeExporterModule) -> None:
    client = autolog()
    client.reconfigure(enabled=False)
    tracer = trace.get_tracer_provider().get_tracer("program")
    with tracer.start_as_current_span("request"):
        client.reconfigure(enabled=True)
        run()
        tracer.start_span("late").end()
    tracer.start_span("next").end()
    assert delivered(client, exporters) == ["next"]


def test_a_trace_of_another_process_is_left_out_as_well(exporters: FakeExporterModule) -> None:
    client = autolog()
    client.reconfigure(enabled=False)
    tracer = trace.get_tracer_provider().get_tracer("program")
    tracer.start_span("served", context=REMOTE).end()
    client.reconfigure(enabled=True)
    tracer.start_span("another", context=Context()).end()
    assert delivered(client, exporters) == ["another"]


def test_trace_processors_follow(exporters: FakeExporterModule) -> None:
    client = autolog()
    names: list[str] = []
    client.add_trace_processor(lambda trace: names.append(trace.name))
    tracer = trace.get_tracer_provider().get_tracer("program")
    with tracer.start_as_current_span("open"):
        client.reconfigure(enabled=False)
        tracer.start_span("step").end()
    tracer.start_span("left out").end()
    client.reconfigure(enabled=True)
    tracer.start_span("again").end()
    assert client.flush(60)
    assert names == ["open", "again"]


def test_mlflows_switch_stops_and_resumes_the_bridge(exporters: FakeExporterModule) -> None:
    client = autolog()
    tracer = trace.get_tracer_provider().get_tracer("program")
    with tracer.start_as_current_span("open"):
        follow_mlflow(is_enabled=False)
        tracer.start_span("step").end()
    run()
    client.reconfigure(enabled=False)
    follow_mlflow(is_enabled=True)
    run()
    assert delivered(client, exporters) == ["step", "open"]
    client.reconfigure(enabled=True)
    run()
    assert delivered(client, exporters) == WHOLE


def test_it_is_off_although_the_new_destination_cannot_be_used(
    exporters: FakeExporterModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = autolog()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "ftp://nowhere")
    autolog(enabled=False)
    run()
    assert client.config.enabled is False
    assert delivered(client, exporters) == []
    autolog()
    run()
    assert delivered(client, exporters) == WHOLE


def test_a_new_start_is_on(exporters: FakeExporterModule) -> None:
    autolog()
    autolog(enabled=False)
    disable_autolog()
    client = autolog()
    run()
    assert delivered(client, exporters) == WHOLE


def test_switches_under_load_lose_double_and_divide_no_trace(
    exporters: FakeExporterModule,
) -> None:
    client = autolog(max_queue_size=1_000_000)
    complete: list[bool] = []
    client.add_trace_processor(lambda trace: complete.append(trace.complete))
    stop, calls = threading.Event(), Counter[int]()

    def work(number: int) -> None:
        program = Outer()
        with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
            while not stop.is_set():
                program("why?")
                calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for number in range(60):
        client.reconfigure(enabled=number % 2 == 1)
    stop.set()
    for thread in threads:
        thread.join()
    names = Counter(delivered(client, exporters))
    assert set(names.values()) == {names["chat echo"]}
    assert 0 < names["chat echo"] <= sum(calls.values())
    assert all(complete)
    # Each thread may begin a trace between the switch of the delivery and that of the processors.
    assert abs(len(complete) - names["chat echo"]) <= len(threads) * 60


def test_a_processor_by_hand_that_is_off_takes_nothing() -> None:
    exporter = FakeExporter(enabled=False)
    processor = MLflowBatchSpanProcessor(exporter)  # type: ignore[arg-type]
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("program").start_span("left out").end()
    assert provider.force_flush()
    assert exporter.names == []
    assert processor.status().accepted == 0
    provider.shutdown()


def test_what_zero_code_has_set_up_is_off_by_the_variable(
    exporters: FakeExporterModule, provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_ENABLED", "false")
    provider.use_sdk()
    exporters.MLflowSpanExporter(tracking_uri="sqlite:///a.db")
    zero_code.adopt_exporters()
    provider.record("left out")
    client = autolog(tracking_uri="sqlite:///a.db", enabled=True)
    provider.record("recorded")
    assert delivered(client, exporters) == ["recorded"]


def test_a_wrong_value_is_named(
    exporters: FakeExporterModule,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConfigurationError, match="'perhaps'; accepted: true or false"):
        MLflowDSPyConfig(enabled="perhaps")  # type: ignore[arg-type]
    monkeypatch.setenv("MLFLOW_DSPY_ENABLED", "perhaps")
    with caplog.at_level(logging.WARNING):
        assert autolog().config.enabled is True
    assert "MLFLOW_DSPY_ENABLED" in caplog.text
