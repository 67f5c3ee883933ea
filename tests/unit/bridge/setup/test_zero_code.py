# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest

import mlflow_bridge
from mlflow_bridge._setup import zero_code
from opentelemetry.instrumentation.dspy import load_settings, set_default_arguments
from tests.unit.bridge.fake_exporter import (
    EXPORTER_MODULE,
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.fixture(autouse=True)
def no_exporter_adopted_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.delenv(CAPTURE, raising=False)
    # Else MLflow, if another test has imported it, would stay with the provider of a test.
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    yield
    set_default_arguments()


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> FakeExporterModule:
    return install_fake_exporter(monkeypatch)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


def test_without_our_exporter_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, provider: GlobalProvider
) -> None:
    monkeypatch.delitem(sys.modules, EXPORTER_MODULE, raising=False)
    zero_code.adopt_exporters()
    assert EXPORTER_MODULE not in sys.modules
    assert load_settings().content_mode.name == "NO_CONTENT"


def test_an_exporter_gets_our_processors_and_is_adopted(
    exporters: FakeExporterModule, provider: GlobalProvider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sdk = provider.use_sdk()
    exporter = exporters.MLflowSpanExporter()
    zero_code.adopt_exporters()
    provider.record("span")
    assert sdk.force_flush()
    sdk.shutdown()
    assert exporter.names == ["span"]
    assert exporter.adopted
    assert exporter.closed
    assert zero_code.adopted_delivery(exporter.config) is not None
    [line] = [record.message for record in caplog.records]
    assert exporter.destination_description in line
    assert "SPAN_ONLY" in line


def test_a_second_run_of_the_hook_adopts_nothing_twice(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    sdk = provider.use_sdk()
    exporter = exporters.MLflowSpanExporter()
    zero_code.adopt_exporters()
    zero_code.adopt_exporters()
    provider.record("span")
    sdk.shutdown()
    assert exporter.names == ["span"]


def test_several_exporters_get_every_span_each(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    sdk = provider.use_sdk()
    made = [exporters.MLflowSpanExporter(experiment_name=name) for name in ("one", "two")]
    zero_code.adopt_exporters()
    provider.record("span")
    sdk.shutdown()
    assert [exporter.names for exporter in made] == [["span"], ["span"]]


@pytest.mark.parametrize("said", [None, "NO_CONTENT", "EVENT_ONLY"])
def test_content_is_recorded_unless_the_environment_says_otherwise(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    monkeypatch: pytest.MonkeyPatch,
    said: str | None,
) -> None:
    if said is not None:
        monkeypatch.setenv(CAPTURE, said)
    sdk = provider.use_sdk()
    exporters.MLflowSpanExporter()
    zero_code.adopt_exporters()
    assert load_settings().content_mode.name == (said or "SPAN_ONLY")
    sdk.shutdown()


def test_settings_of_the_instrumentation_become_its_defaults(
    exporters: FakeExporterModule, provider: GlobalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_DSPY_MAX_CONTENT_LENGTH", "500")
    sdk = provider.use_sdk()
    exporters.MLflowSpanExporter(experiment_name="one", log_inputs=False, capture_content=False)
    exporters.MLflowSpanExporter(experiment_name="two", max_content_length=100, redact=max)
    zero_code.adopt_exporters()
    settings = load_settings()
    assert (settings.content_mode.name, settings.capture_inputs) == ("NO_CONTENT", False)
    assert (settings.max_content_length, settings.redact) == (100, max)
    assert load_settings(capture_inputs=True, max_content_length=200).capture_inputs
    sdk.shutdown()


def test_a_provider_without_processors_leaves_the_exporter_as_it_is(
    exporters: FakeExporterModule, provider: GlobalProvider, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = exporters.MLflowSpanExporter()
    zero_code.adopt_exporters()
    assert not exporter.adopted
    assert "ProxyTracerProvider" in caplog.text


def test_an_exporter_with_bad_settings_costs_the_program_nothing(
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sdk = provider.use_sdk()
    exporter = exporters.MLflowSpanExporter(obstacle="there is no such scheme")
    zero_code.adopt_exporters()
    provider.record("span")
    sdk.shutdown()
    assert exporter.adopted
    assert exporter.names == []
    assert zero_code.adopted_delivery(exporter.config) is None
    [status] = [one for one in mlflow_bridge.status() if one.last_error == exporter.obstacle]
    assert (status.accepted, status.rejected, status.missing, status.kept) == (1, 1, 1, 0)
    [line] = [record.message for record in caplog.records if "not in" in record.message]
    assert line.startswith("1 of 1 spans are not in ")
    assert "1 refused" in line


def test_autolog_with_other_settings_changes_what_the_hook_has_set_up(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    sdk = provider.use_sdk()
    first = exporters.MLflowSpanExporter(tracking_uri="sqlite:///a.db")
    zero_code.adopt_exporters()
    provider.record("before")
    delivery = zero_code.adopted_delivery(first.config)
    assert delivery is not None
    delivery.reconfigure(first.config)
    other = first.config.replace(max_batch_size=7)
    delivery.reconfigure(other)
    provider.record("after")
    sdk.shutdown()
    assert [exporter.names for exporter in exporters.made] == [["before"], ["after"]]
    assert (first.closed, delivery.config) == (True, other)


def test_a_failure_is_a_warning(
    exporters: FakeExporterModule, provider: GlobalProvider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.use_sdk()
    exporter = exporters.MLflowSpanExporter()
    del exporter.config
    zero_code.adopt_exporters()
    assert not exporter.adopted
    assert "OTEL_TRACES_EXPORTER" in caplog.text
