# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tracer providers of other backends: each backend gets every span, or a warning says which not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from mlflow_bridge import autolog, disable_autolog
from mlflow_bridge._setup import zero_code
from opentelemetry.instrumentation.dspy import set_default_arguments
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)
from tests.unit.bridge.setup.test_autolog import FakeInstrumentor


class Backend(SpanProcessor):
    """The processor of another backend."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.is_shut_down = False

    def on_end(self, span: ReadableSpan) -> None:
        if not self.is_shut_down:
            self.names.append(span.name)

    def shutdown(self) -> None:
        self.is_shut_down = True


class ReplacingProvider(TracerProvider):
    """As Phoenix's: the first further processor takes the place of its own one."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.backend = Backend()
        super().add_span_processor(self.backend)
        self._default: Backend | None = self.backend

    def _replace(self) -> None:
        if self._default is not None:
            processors = self._active_span_processor._span_processors
            kept = tuple(one for one in processors if one is not self._default)
            self._active_span_processor._span_processors = kept
            self._default.shutdown()
            self._default = None

    def add_span_processor(self, *args: Any, replace_default_processor: bool = True) -> None:
        if replace_default_processor:
            self._replace()
        super().add_span_processor(*args)


class OldReplacingProvider(ReplacingProvider):
    """Without the argument that keeps the processor."""

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        super().add_span_processor(span_processor)


class ReconfiguredProvider(trace.TracerProvider):
    """As Logfire's: it stays the global one, and the provider inside is exchanged."""

    def __init__(self) -> None:
        self.configure()

    def configure(self) -> None:
        if hasattr(self, "inner"):
            self.inner.shutdown()
        self.inner = TracerProvider(shutdown_on_exit=False)
        self.backend = Backend()
        self.inner.add_span_processor(self.backend)

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return self.inner.get_tracer(*args, **kwargs)

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        self.inner.add_span_processor(span_processor)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.inner.force_flush(timeout_millis)

    @property
    def resource(self) -> Resource:
        return self.inner.resource


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    monkeypatch.setattr("opentelemetry.instrumentation.dspy.DSPyInstrumentor", FakeInstrumentor())
    yield
    disable_autolog()
    # The hook has set defaults of the instrumentation.
    set_default_arguments()


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> FakeExporterModule:
    return install_fake_exporter(monkeypatch)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> GlobalProvider:
    return GlobalProvider(monkeypatch)


def stored(exporters: FakeExporterModule) -> list[str]:
    return [name for exporter in exporters.made for name in exporter.names]


def set_up(door: str, exporters: FakeExporterModule) -> None:
    if door == "autolog":
        autolog()
    else:
        exporters.MLflowSpanExporter()
        zero_code.adopt_exporters()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("door", ["autolog", "opentelemetry-instrument"])
def test_a_provider_that_would_replace_its_own_processor(
    door: str,
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider.current = replacing = ReplacingProvider()
    set_up(door, exporters)
    provider.record("span")
    assert replacing.force_flush()
    assert replacing.backend.names == ["span"]
    assert stored(exporters) == ["span"]
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("door", ["autolog", "opentelemetry-instrument"])
def test_a_provider_that_replaces_its_own_processor_in_any_case(
    door: str,
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider.current = OldReplacingProvider()
    set_up(door, exporters)
    [line] = warnings_of(caplog)
    assert "OldReplacingProvider" in line and "Backend" in line


@pytest.mark.parametrize("door", ["autolog", "opentelemetry-instrument"])
def test_autolog_after_a_shutdown_of_the_provider(
    door: str,
    exporters: FakeExporterModule,
    provider: GlobalProvider,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sdk = provider.use_sdk()
    set_up(door, exporters)
    client = autolog()
    provider.record("before")
    sdk.shutdown()
    assert not client.flush()
    [line] = warnings_of(caplog)
    assert "autolog()" in line
    assert autolog() is client
    provider.record("after")
    assert client.flush()
    assert sdk.force_flush()
    assert stored(exporters) == ["before", "after"]
    assert client.status()[-1].accepted == 1  # the first processor may be collected by now


def test_autolog_after_the_provider_inside_was_exchanged(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    provider.current = logfire = ReconfiguredProvider()
    client = autolog()
    provider.record("before")
    logfire.configure()
    assert not client.flush()
    autolog()
    provider.record("after")
    assert client.flush()
    assert logfire.force_flush()
    assert logfire.backend.names == ["after"]
    assert stored(exporters) == ["before", "after"]


def test_a_backend_that_joins_later(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    """As Langfuse's client: it adds its processor to the provider that is there."""
    autolog()
    backend = Backend()
    assert isinstance(provider.current, TracerProvider)
    provider.current.add_span_processor(backend)
    provider.record("span")
    assert provider.current.force_flush()
    assert backend.names == stored(exporters) == ["span"]


def test_a_closed_client_does_not_start_again(
    exporters: FakeExporterModule, provider: GlobalProvider
) -> None:
    sdk = provider.use_sdk()
    client = autolog()
    client.close()
    assert client.flush()
    provider.record("span")
    sdk.shutdown()
    assert stored(exporters) == []


def test_a_shutdown_is_reported_although_a_span_is_missing(
    exporters: FakeExporterModule, provider: GlobalProvider, caplog: pytest.LogCaptureFixture
) -> None:
    sdk = provider.use_sdk()
    client = autolog()
    exporters.made[-1].obstacle = "refused"
    provider.record("before")
    sdk.shutdown()
    assert not client.flush()
    assert any("autolog()" in line for line in warnings_of(caplog))
