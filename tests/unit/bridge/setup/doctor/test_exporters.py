# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Exporters that the variables name, and that are not installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from mlflow_bridge._setup.doctor import exporters
from mlflow_bridge._setup.doctor.exporters import check_exporters

INSTALLED = {"mlflow", "console", "otlp_proto_http"}


@pytest.fixture(autouse=True)
def installation(monkeypatch: pytest.MonkeyPatch) -> None:
    for signal in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.delenv(f"OTEL_{signal}_EXPORTER", raising=False)
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL", raising=False)
    monkeypatch.setattr(exporters, "version", lambda _name: "0.60b0")
    monkeypatch.setattr(
        exporters, "entry_points", lambda group, name: [name] if name in INSTALLED else []
    )


def found(monkeypatch: pytest.MonkeyPatch, **variables: str) -> list[str]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return [f"{check.name} {check.state} {check.detail}" for check in check_exporters()]


def test_signals_without_a_variable_use_otlp_over_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, OTEL_TRACES_EXPORTER="mlflow") == [
        f"exporters fail opentelemetry-instrument sets up nothing, since OTEL_{signal}_EXPORTER is "
        "not set, which names the exporter otlp_proto_grpc, which is not installed; "
        f"OTEL_{signal}_EXPORTER=none does without, and OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf "
        "uses the exporter of the extra otlp"
        for signal in ("METRICS", "LOGS")
    ]


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_TRACES_EXPORTER": "mlflow,otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        {
            "OTEL_TRACES_EXPORTER": "mlflow",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "console",
        },
        {},
    ],
)
def test_variables_that_can_be_used(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    assert found(monkeypatch, **variables) == []


def test_an_exporter_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    [detail] = found(
        monkeypatch,
        OTEL_TRACES_EXPORTER="console, zipkin",
        OTEL_METRICS_EXPORTER="none",
        OTEL_LOGS_EXPORTER="none",
    )
    assert "since OTEL_TRACES_EXPORTER names the exporter zipkin, which is not installed" in detail


def test_the_protocol_of_one_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    [detail] = found(
        monkeypatch,
        OTEL_TRACES_EXPORTER="otlp",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="grpc",
    )
    assert "OTEL_TRACES_EXPORTER names the exporter otlp_proto_grpc" in detail


def test_without_the_distro_nothing_is_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(exporters, "version", absent)
    [detail] = found(monkeypatch, OTEL_TRACES_EXPORTER="mlflow")
    assert "opentelemetry-distro is not installed (extra zero-code)" in detail
