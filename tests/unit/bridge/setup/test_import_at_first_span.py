# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The first span for MLflow begins its import; the end of the process waits for the import."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Tracer

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig
from mlflow_bridge._export.contract import Outcome, Sent

GENAI = {"gen_ai.operation.name": "chat"}


class SlowImport:
    """A delivery that takes a while to import what it needs, and is then fast."""

    destination_description = "a slow import"

    def __init__(self, config: MLflowDSPyConfig, seconds: float) -> None:
        self.config = config
        self.is_loaded = False
        self.begun = threading.Event()
        self.names: list[str] = []
        self._seconds = seconds

    def _load(self) -> None:
        self.begun.set()
        if not self.is_loaded:
            time.sleep(self._seconds)
            self.is_loaded = True

    def warm_up(self) -> None:
        self._load()

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        self._load()
        self.names.extend(span.name for span in spans)
        return Sent(len(spans))

    def close(self) -> None: ...


class Pipeline:
    """A provider with a processor whose exit timeout is shorter than the import."""

    def __init__(self, seconds: float = 0.5, **settings: object) -> None:
        given: dict[str, object] = {
            "spool": False,
            "exit_timeout_seconds": 0.2,
            "traces": "genai",
            "flush_on_sigterm": False,
            **settings,
        }
        self.delivery = SlowImport(MLflowDSPyConfig(**given), seconds)  # pyright: ignore[reportArgumentType]
        self.processor = MLflowBatchSpanProcessor(self.delivery)
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)

    @property
    def tracer(self) -> Tracer:
        return self.provider.get_tracer("test")


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    made = Pipeline()
    yield made
    made.processor.close(0.0)


def test_the_import_begins_at_the_start_of_the_first_genai_span(pipeline: Pipeline) -> None:
    with pipeline.tracer.start_as_current_span("GET /"):
        assert not pipeline.delivery.begun.wait(0.2)
        with pipeline.tracer.start_as_current_span("chat", attributes=GENAI):
            assert pipeline.delivery.begun.wait(20)


def test_without_a_filter_every_span_begins_the_import() -> None:
    pipeline = Pipeline(0.0, traces="all")
    with pipeline.tracer.start_as_current_span("GET /"):
        assert pipeline.delivery.begun.wait(20)
    pipeline.processor.close()
    assert pipeline.delivery.names == ["GET /"]


def test_the_end_does_not_import_for_spans_that_are_filtered(pipeline: Pipeline) -> None:
    pipeline.tracer.start_span("GET /").end()
    assert pipeline.processor.close()
    assert not pipeline.delivery.begun.is_set()
    assert pipeline.processor.status().filtered == 1


def test_the_end_of_the_process_waits_for_the_import(pipeline: Pipeline) -> None:
    pipeline.tracer.start_span("chat", attributes=GENAI).end()
    assert pipeline.processor.close()
    assert pipeline.delivery.names == ["chat"]
    assert pipeline.processor.import_seconds == 0


def test_the_exit_handler_waits_for_an_import_that_begins_then(pipeline: Pipeline) -> None:
    with pipeline.tracer.start_as_current_span("late") as span:
        span.set_attributes(GENAI)
    assert not pipeline.delivery.begun.is_set()
    pipeline.processor._before_exit()
    assert pipeline.delivery.names == ["late"]


def test_a_time_limit_of_the_caller_includes_the_import() -> None:
    pipeline = Pipeline(seconds=30.0)
    pipeline.tracer.start_span("chat", attributes=GENAI).end()
    began = time.monotonic()
    assert not pipeline.processor.close(0.3)
    assert time.monotonic() - began < 20


def test_an_exit_timeout_of_zero_does_not_wait_for_the_import() -> None:
    pipeline = Pipeline(seconds=30.0, exit_timeout_seconds=0)
    pipeline.tracer.start_span("chat", attributes=GENAI).end()
    assert pipeline.processor.import_seconds == 0
    pipeline.processor.close()


def test_with_a_spool_only_an_exit_waits_for_the_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(seconds=30.0, spool=True, spool_directory=tmp_path / "spool")
    pipeline.tracer.start_span("chat", attributes=GENAI).end()
    assert pipeline.processor.import_seconds == 0
    with monkeypatch.context() as patch:
        patch.setattr(threading.main_thread(), "is_alive", lambda: False)
        assert pipeline.processor.import_seconds > 0
    assert pipeline.processor.close()
    assert pipeline.processor.status().spilled == 1
