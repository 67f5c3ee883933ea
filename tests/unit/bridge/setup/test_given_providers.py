# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Providers that a program names in ``autolog()``, in place of the global ones."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import dspy
import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bridge import ConfigurationError, autolog, disable_autolog, get_autolog_client
from mlflow_bridge._setup import zero_code
from opentelemetry.instrumentation.dspy import DSPyInstrumentor, set_default_arguments
from tests.support.instrumented import DEPRECATED
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)
from tests.unit.bridge.setup.test_recording_at_run_time import WHOLE, delivered, run

import_module("mlflow_bridge._setup.processor")  # before its exporter is replaced
pytestmark = pytest.mark.filterwarnings(DEPRECATED)


@pytest.fixture
def global_provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


@pytest.fixture
def exporters(
    monkeypatch: pytest.MonkeyPatch, global_provider: GlobalProvider
) -> Iterator[FakeExporterModule]:
    """As if autolog() had never been called here."""
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    yield install_fake_exporter(monkeypatch)
    disable_autolog()
    set_default_arguments()


def made() -> TracerProvider:
    return TracerProvider(shutdown_on_exit=False)


def test_spans_of_the_given_provider_are_delivered_and_nothing_global_is_set(
    exporters: FakeExporterModule, global_provider: GlobalProvider
) -> None:
    proxy = global_provider.current
    own = made()
    client = autolog(tracer_provider=own)
    run()
    own.get_tracer("program").start_span("plain").end()
    assert delivered(client, exporters) == [*WHOLE, "plain"]
    assert global_provider.current is proxy


def test_a_global_provider_stays_as_it_is(
    exporters: FakeExporterModule, global_provider: GlobalProvider
) -> None:
    global_provider.use_sdk()
    client = autolog(tracer_provider=made())
    global_provider.record("of the global provider")
    run()
    assert delivered(client, exporters) == WHOLE


def test_later_calls_keep_the_given_provider(exporters: FakeExporterModule) -> None:
    own = made()
    client = autolog(tracer_provider=own)
    client.reconfigure(tracking_uri="sqlite:///other.db")
    autolog(experiment_name="another")
    run()
    assert delivered(client, exporters) == WHOLE
    disable_autolog()
    client = autolog()
    own.get_tracer("program").start_span("of the earlier provider").end()
    run()
    assert delivered(client, exporters) == WHOLE


def test_another_provider_takes_over_and_open_spans_of_the_first_are_delivered(
    exporters: FakeExporterModule,
) -> None:
    first, second = made(), made()
    client = autolog(tracer_provider=first)
    tracer = first.get_tracer("program")
    with tracer.start_as_current_span("open"):
        autolog(tracer_provider=second)
        tracer.start_span("step").end()
    tracer.start_span("too late").end()
    run()
    assert delivered(client, exporters) == ["step", "open", *WHOLE]


def test_a_trace_of_the_first_provider_that_was_left_out_stays_absent(
    exporters: FakeExporterModule,
) -> None:
    first = made()
    client = autolog(tracer_provider=first)
    client.reconfigure(enabled=False)
    tracer = first.get_tracer("program")
    with tracer.start_as_current_span("left out"):
        autolog(tracer_provider=made())
        tracer.start_span("step").end()
    run()
    assert delivered(client, exporters) == WHOLE


def test_metrics_and_events_go_to_the_given_providers(exporters: FakeExporterModule) -> None:
    reader, logs = InMemoryMetricReader(), InMemoryLogRecordExporter()
    loggers = LoggerProvider(shutdown_on_exit=False)
    loggers.add_log_record_processor(SimpleLogRecordProcessor(logs))
    client = autolog(
        tracer_provider=made(),
        meter_provider=MeterProvider([reader], shutdown_on_exit=False),
        logger_provider=loggers,
        capture_content="SPAN_AND_EVENT",
    )
    run()
    assert client.flush(60)
    data = reader.get_metrics_data()
    assert data is not None
    scopes = data.resource_metrics[0].scope_metrics
    names = {metric.name for scope in scopes for metric in scope.metrics}
    assert "gen_ai.client.operation.duration" in names
    assert any(name.startswith("mlflow_bridge") for name in names), names
    assert logs.get_finished_logs()


def test_dspy_that_was_instrumented_before_is_one_warning(
    exporters: FakeExporterModule, caplog: pytest.LogCaptureFixture
) -> None:
    DSPyInstrumentor().instrument(tracer_provider=made())
    client = autolog(tracer_provider=made())
    autolog(tracer_provider=made())
    run()
    assert delivered(client, exporters) == []
    [line] = [one for one in caplog.messages if "providers" in one]
    assert "uninstrument() before autolog()" in line
    DSPyInstrumentor().uninstrument()


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        ("tracer_provider", "add_span_processor"),
        ("meter_provider", "get_meter"),
        ("logger_provider", "get_logger"),
    ],
)
def test_another_object_is_refused(exporters: FakeExporterModule, name: str, accepted: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is a int; accepted: .*{accepted}"):
        autolog(**{name: 7})  # type: ignore[arg-type]
    assert get_autolog_client() is None
    assert not DSPyInstrumentor().is_instrumented_by_opentelemetry
    assert dspy.Predict.__call__ is not None
