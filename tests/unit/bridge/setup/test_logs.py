# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``log_level``, and the one line at the start."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib import import_module

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased

from mlflow_bridge import MLflowDSPyConfig, autolog, disable_autolog
from mlflow_bridge._setup import zero_code
from mlflow_bridge._setup.logs import described_sampler, log_start, use_log_level
from tests.unit.bridge.fake_exporter import (
    FakeExporterModule,
    GlobalProvider,
    install_fake_exporter,
)
from tests.unit.bridge.setup.test_autolog import FakeInstrumentor

NAMES = ("mlflow_bridge", "opentelemetry.instrumentation.dspy")


def levels() -> list[int]:
    return [logging.getLogger(name).level for name in NAMES]


@pytest.fixture(autouse=True)
def own_levels() -> Iterator[int]:
    root = logging.getLogger()
    before = root.level
    yield before
    use_log_level(None)
    assert root.level == before
    assert levels() == [logging.NOTSET] * 2


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeExporterModule]:
    module = import_module("mlflow_bridge._setup.autolog")
    monkeypatch.setattr(module, "_session", type(module._session)())
    monkeypatch.setattr(zero_code, "_adopted", [])
    monkeypatch.setenv("MLFLOW_USE_DEFAULT_TRACER_PROVIDER", "true")
    monkeypatch.setattr("opentelemetry.instrumentation.dspy.DSPyInstrumentor", FakeInstrumentor())
    GlobalProvider(monkeypatch)
    yield install_fake_exporter(monkeypatch)
    disable_autolog()


@pytest.mark.usefixtures("exporters")
def test_the_level_of_the_two_hierarchies() -> None:
    autolog(log_level="debug")
    assert levels() == [logging.DEBUG] * 2
    autolog(log_level="ERROR")
    assert levels() == [logging.ERROR] * 2
    autolog()
    assert levels() == [logging.NOTSET] * 2
    autolog(log_level="ERROR")
    disable_autolog()
    assert levels() == [logging.NOTSET] * 2


@pytest.mark.usefixtures("exporters")
def test_levels_of_the_program_come_back() -> None:
    logging.getLogger(NAMES[0]).setLevel(logging.CRITICAL)
    try:
        autolog(log_level="INFO")
        autolog(log_level="DEBUG")
        autolog()
        assert levels() == [logging.CRITICAL, logging.NOTSET]
    finally:
        logging.getLogger(NAMES[0]).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("exporters")
def test_a_level_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_LOG_LEVEL", "warning")
    autolog()
    assert levels() == [logging.WARNING] * 2


@pytest.mark.usefixtures("exporters")
def test_one_line_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    settings = {"tracking_uri": "http://host:5000", "experiment_name": "e", "sampling_rate": 0.5}
    for _ in range(2):
        autolog(**settings)
    [line] = [one for one in caplog.messages if one.startswith("Traces go to")]
    assert line.startswith(
        "Traces go to http://host:5000, experiment 'e' (mode: autolog, tracking "
    )
    assert "server; sampling: DSPySampler{rate=0.5}; content: SPAN_ONLY)." in line


def test_what_the_line_says_of_other_modes(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("mlflow_bridge.test")
    caplog.set_level(logging.INFO, "mlflow_bridge.test")
    config = MLflowDSPyConfig(tracking_uri="sqlite:///a.db", write_ahead=True)
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(0.25)), shutdown_on_exit=False)
    log_start(log, config, door="opentelemetry-instrument", content="NO_CONTENT", provider=provider)
    [line] = caplog.messages
    assert line.endswith(
        "(mode: opentelemetry-instrument, SQL store in this process, write-ahead; sampling: "
        "TraceIdRatioBased{0.25}, and by the parent of a span that has a parent; "
        "content: NO_CONTENT)."
    )


def test_samplers_that_say_nothing() -> None:
    assert described_sampler(None) == "unknown"
    assert described_sampler(ALWAYS_OFF) == "AlwaysOffSampler"
