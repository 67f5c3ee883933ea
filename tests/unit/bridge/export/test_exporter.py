# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The exporter keeps OpenTelemetry's contract, and never troubles the program."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._export import exporter as exporter_module
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from mlflow_bridge._export.exporter import (
    MLflowSpanExporter,
    adopt,
    claim,
    is_claimed,
    live_exporters,
)
from opentelemetry.instrumentation.dspy import ContentMode
from tests.support.dspy_spans import Recorder, names
from tests.unit.bridge.export.fake_destination import Answer, FakeDestination

SERVER = "http://mlflow.invalid:5000"
SUCCESS, FAILURE = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


class Exporters:
    """Makes exporters to a destination in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.destination = FakeDestination()
        monkeypatch.setattr(exporter_module, "make_destination", lambda _: self.destination)

    def make(self, *answers: Answer, **settings: float) -> MLflowSpanExporter:
        self.destination.answers.extend(answers)
        config = MLflowDSPyConfig.model_validate({"tracking_uri": SERVER, **settings})
        return MLflowSpanExporter(config=config)


@pytest.fixture
def exporters(monkeypatch: pytest.MonkeyPatch) -> Exporters:
    # The only setting here that needs more than an exporter.
    monkeypatch.delenv("MLFLOW_DSPY_TRACES")
    return Exporters(monkeypatch)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    class Immediately:
        def delay(self, attempt: int, asked: float | None = None) -> float:
            return 0.0

    monkeypatch.setattr(exporter_module, "Backoff", Immediately)


def test_exports_what_it_is_given(exporters: Exporters) -> None:
    exporter = exporters.make()
    spans = Recorder().many(3)
    assert exporter.export(spans) is SUCCESS
    assert exporters.destination.stored == names(spans)
    assert exporter.stats().sent == 3


@pytest.mark.usefixtures("quick")
def test_retries_until_it_is_through(
    exporters: Exporters, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = exporters.make(*[Retry("busy: now")] * 5)
    assert exporter.export(Recorder().many(3)) is SUCCESS
    stats = exporter.stats()
    assert (stats.sent, stats.retried, stats.abandoned) == (3, 5, 0)
    assert len(caplog.records) == 1
    assert SERVER in caplog.text
    assert "busy: now" in caplog.text


def test_gives_up_at_the_deadline(
    exporters: Exporters, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporter_module, "RETRY_SECONDS", 0.0)
    exporter = exporters.make(*[Retry("busy: now")] * 50)
    assert exporter.export(Recorder().many(3)) is FAILURE
    assert exporter.stats().abandoned == 3
    assert exporter.stats().last_error == "busy: now"
    assert "3 spans are lost" in caplog.text


def test_wait_that_the_server_asks_for_beyond_the_deadline_is_not_begun(
    exporters: Exporters,
) -> None:
    exporter = exporters.make(Retry("busy", after=300.0))
    began = time.monotonic()
    assert exporter.export(Recorder().many(1)) is FAILURE
    assert time.monotonic() - began < 10


def test_rejection_is_final(exporters: Exporters, caplog: pytest.LogCaptureFixture) -> None:
    exporter = exporters.make(*[Rejected("wrong password: 401", divisible=False)] * 5)
    for _ in range(5):
        assert exporter.export(Recorder().many(2)) is FAILURE
    assert exporter.stats().rejected == 10
    assert len(caplog.records) == 1


def test_nothing_is_tried_again_that_somebody_has_to_put_right(
    exporters: Exporters, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = exporters.make(*[Retry("wrong password: 401", lasting=True)] * 5)
    for _ in range(5):
        assert exporter.export(Recorder().many(2)) is FAILURE
    assert exporter.stats().abandoned == 10
    assert len(caplog.records) == 1
    assert "wrong password" in caplog.text


def test_export_never_raises(exporters: Exporters, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = exporters.make()

    def broken(_: object) -> Outcome:
        raise RuntimeError("bug")

    monkeypatch.setattr(exporter, "deliver", broken)
    assert exporter.export(Recorder().many(1)) is FAILURE


def test_shutdown_ends_retries(exporters: Exporters) -> None:
    waiting = threading.Event()

    def busy() -> Outcome:
        waiting.set()
        return Retry("busy")

    exporter = exporters.make(*[busy] * 1000)
    results: list[SpanExportResult] = []
    spans = Recorder().many(2)
    thread = threading.Thread(target=lambda: results.append(exporter.export(spans)))
    thread.start()
    assert waiting.wait(10)
    exporter.shutdown()
    thread.join(10)
    assert results == [FAILURE]
    assert exporter.stats().abandoned == 2


def test_shutdown_may_be_repeated_from_many_threads(exporters: Exporters) -> None:
    exporter = exporters.make()
    threads = [threading.Thread(target=exporter.shutdown) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert exporter.export(Recorder().many(1)) is FAILURE
    assert exporter.stats().rejected == 1


def test_force_flush_has_nothing_to_do(exporters: Exporters) -> None:
    assert exporters.make().force_flush() is True


def test_under_a_stock_processor(exporters: Exporters) -> None:
    exporter = exporters.make()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    for index in range(5):
        provider.get_tracer("t").start_span(f"span {index}").end()
    provider.shutdown()
    assert exporters.destination.stored == [f"span {index}" for index in range(5)]
    assert exporters.destination.closed == 1


def test_adopted_exporter_acknowledges_without_sending(exporters: Exporters) -> None:
    exporter = exporters.make()
    before = Recorder().many(2)
    adopt(exporter)
    after = Recorder().many(3)
    # No other processor delivers spans from before the adoption.
    assert exporter.export([*before, *after]) is SUCCESS
    assert exporters.destination.stored == names(before)
    exporter.shutdown()
    assert exporter.deliver(after) == Sent(3)
    assert exporters.destination.closed == 0
    assert exporter.close()
    assert exporters.destination.closed == 1
    assert isinstance(exporter.deliver(after), Rejected)


def test_live_exporters_are_found_and_not_kept_alive(exporters: Exporters) -> None:
    exporter = exporters.make()
    assert exporter in live_exporters()
    identity = id(exporter)
    del exporter
    gc.collect()
    assert identity not in [id(found) for found in live_exporters()]


def test_description_has_no_credentials(exporters: Exporters) -> None:
    exporter = MLflowSpanExporter("http://me:secret@host:5000", "mine")
    assert exporter.destination_description == "http://host:5000, experiment 'mine'"


@pytest.mark.parametrize("alias", ["experiment_name", "experiment"])
def test_experiment_by_either_name(exporters: Exporters, alias: str) -> None:
    arguments: dict[str, Any] = {alias: "mine"}
    exporter = MLflowSpanExporter(SERVER, **arguments)
    assert exporter.config.experiment_name == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        {"tracking_uri": "file:/tmp/mlruns"},
        {"experiment_name": "a", "experiment": "b"},
        {"experiment_id": "seven"},
        {"config": MLflowDSPyConfig(tracking_uri=SERVER), "tracking_uri": SERVER},
    ],
)
def test_bad_arguments_raise(exporters: Exporters, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        MLflowSpanExporter(**arguments)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MLFLOW_TRACKING_URI", "nonsense"),
        ("MLFLOW_TRACKING_URI", "databricks"),
        ("MLFLOW_EXPERIMENT_ID", "seven"),
        ("MLFLOW_DSPY_HEADERS", "oops"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "perhaps"),
    ],
)
def test_bad_environment_is_one_error_that_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    exporter = MLflowSpanExporter()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert exporter.obstacle is not None
    assert variable in record.getMessage()
    assert exporter.destination_description == "MLflow (bad settings)"
    assert exporter.export(Recorder().many(2)) is FAILURE
    assert exporter.stats().rejected == 2
    exporter.shutdown()


def test_a_bad_size_in_the_environment_costs_no_span(
    exporters: Exporters, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_MAX_BATCH_BYTES", "many")
    exporter = MLflowSpanExporter(tracking_uri=SERVER)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "MLFLOW_DSPY_MAX_BATCH_BYTES=16777216" in record.getMessage()
    assert exporter.export(Recorder().many(2)) is SUCCESS


def test_every_setting_is_taken_by_its_name(exporters: Exporters) -> None:
    exporter = MLflowSpanExporter(
        SERVER,
        "mine",
        compression="none",
        max_queue_size=5,
        sampling_rate=0.5,
        capture_content=False,
        spool_directory=None,
    )
    config = exporter.config
    assert (config.tracking_uri, config.experiment_name) == (SERVER, "mine")
    assert (config.compression, config.max_queue_size) == ("none", 5)
    assert (config.sampling_rate, config.capture_content) == (0.5, ContentMode.NO_CONTENT)
    with pytest.raises(ConfigurationError, match="there is no setting 'max_queuesize'"):
        MLflowSpanExporter(SERVER, max_queuesize=5)


@pytest.mark.parametrize("by_config", [True, False])
def test_settings_that_need_more_than_an_exporter_are_named_once_with_their_place(
    exporters: Exporters, caplog: pytest.LogCaptureFixture, by_config: bool
) -> None:
    given: dict[str, Any] = {"tracking_uri": SERVER, "spool": False, "max_queue_size": 5}
    given |= {"sampling_rate": 0.5, "log_inputs": False, "compression": "none"}
    given = {"config": MLflowDSPyConfig(**given)} if by_config else given
    exporter = MLflowSpanExporter(**given)
    for _ in range(2):
        assert exporter.export(Recorder().many(1)) is SUCCESS
    processor, sampler, instrumentation = caplog.messages
    assert processor.startswith("max_queue_size, spool: no effect")
    assert "MLflowBatchSpanProcessor(exporter)" in processor
    assert sampler.startswith("sampling_rate: no effect")
    assert "DSPySampler(config)" in sampler
    assert instrumentation.startswith("log_inputs: no effect")
    assert "config.instrument_arguments()" in instrumentation


def test_settings_that_a_processor_carries_out_need_no_warning(
    exporters: Exporters, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = MLflowSpanExporter(SERVER, max_queue_size=5, log_inputs=False)
    claim(exporter)
    assert is_claimed(exporter)
    assert exporter.export(Recorder().many(1)) is SUCCESS
    assert caplog.messages == []
    claim(exporter)
    [line] = caplog.messages
    assert "two processors" in line


def test_broken_mlflow_does_not_reach_zero_code(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: object) -> None:
        raise AttributeError("module 'mlflow' has no attribute 'x'")

    monkeypatch.setattr(exporter_module, "make_destination", broken)
    exporter = MLflowSpanExporter()
    assert "module 'mlflow' has no attribute" in caplog.text
    assert isinstance(exporter.warm_up(), Rejected)


@pytest.fixture
def interpreter_exits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(exporter_module, "_interpreter_exits", lambda: True)
    yield


@pytest.mark.usefixtures("interpreter_exits")
def test_at_exit_the_shorter_deadline_holds(exporters: Exporters) -> None:
    exporter = exporters.make(*[Retry("busy")] * 1000, exit_timeout_seconds=0)
    assert exporter.export(Recorder().many(1)) is FAILURE
    assert exporter.stats().abandoned == 1
