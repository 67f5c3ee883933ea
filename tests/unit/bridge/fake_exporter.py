# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Replacement of the exporter's module, for tests of the route of spans without MLflow."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider
from opentelemetry.trace import TracerProvider as APITracerProvider

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Outcome, Rejected, Sent

EXPORTER_MODULE = "mlflow_bridge._export.exporter"


class FakeExporter:
    def __init__(
        self,
        *,
        config: MLflowDSPyConfig | None = None,
        obstacle: str | None = None,
        **settings: Any,
    ) -> None:
        self.config = config or MLflowDSPyConfig(**settings)
        self.obstacle = obstacle
        self.claimed = False
        self.adopted = False
        self.closed = False
        self.names: list[str] = []
        self.attributes: list[dict[str, object]] = []

    @property
    def destination_description(self) -> str:
        return self.config.destination_description

    is_loaded = True

    def load(self) -> None: ...

    def warm_up(self) -> None: ...

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        if self.obstacle is not None:
            return Rejected(self.obstacle, divisible=False, spans_to_blame=False)
        self.names.extend(span.name for span in spans)
        self.attributes.extend(dict(span.attributes or {}) for span in spans)
        return Sent(len(spans))

    def close(self) -> None:
        self.closed = True


class FakeExporterModule(ModuleType):
    """Remembers the exporters that were made."""

    def __init__(self) -> None:
        super().__init__(EXPORTER_MODULE)
        self.made: list[FakeExporter] = []

    def MLflowSpanExporter(self, **options: Any) -> FakeExporter:
        exporter = FakeExporter(**options)
        self.made.append(exporter)
        return exporter

    def claim(self, exporter: object) -> None:
        if isinstance(exporter, FakeExporter):
            exporter.claimed = True

    def is_claimed(self, exporter: FakeExporter) -> bool:
        return exporter.claimed

    def adopt(self, exporter: FakeExporter) -> None:
        exporter.adopted = True

    def live_exporters(self) -> tuple[FakeExporter, ...]:
        return tuple(self.made)


def install_fake_exporter(monkeypatch: pytest.MonkeyPatch) -> FakeExporterModule:
    module = FakeExporterModule()
    monkeypatch.setitem(sys.modules, EXPORTER_MODULE, module)
    return module


class GlobalProvider:
    """A global tracer provider for one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current: APITracerProvider = ProxyTracerProvider()
        monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: self.current)
        monkeypatch.setattr("opentelemetry.trace.set_tracer_provider", self._set)

    def _set(self, provider: APITracerProvider) -> None:
        if isinstance(self.current, ProxyTracerProvider):
            self.current = provider

    def use_sdk(self) -> TracerProvider:
        self.current = provider = TracerProvider(shutdown_on_exit=False)
        return provider

    def use_another_implementation(self) -> None:
        self.current = NoOpTracerProvider()

    def record(self, name: str) -> None:
        self.current.get_tracer("test").start_span(name).end()
