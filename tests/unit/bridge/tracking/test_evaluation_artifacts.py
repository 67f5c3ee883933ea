# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Result tables are written on a thread of their own, again after a failure, and waited for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from mlflow_bridge.tracking import evaluation_artifacts
from mlflow_bridge.tracking.evaluation_artifacts import EvaluationArtifacts

PATIENCE = 60.0


class Writer:
    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.written: list[str] = []
        self.attempts = 0
        self.threads: set[int] = set()
        self.traced: set[bool] = set()
        self.goes_on = threading.Event()
        self.goes_on.set()

    def __call__(self, run_id: str) -> None:
        self.attempts += 1
        self.threads.add(threading.get_ident())
        self.traced.add(is_instrumentation_enabled())
        self.goes_on.wait(PATIENCE)
        if self.failures:
            raise self.failures.pop(0)
        self.written.append(run_id)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_artifacts, "_PAUSE_SECONDS", 0.0)


@pytest.fixture
def writer() -> Iterator[Writer]:
    made = Writer()
    yield made
    made.goes_on.set()


def test_each_run_is_written_once_on_another_thread_and_makes_no_spans(writer: Writer) -> None:
    artifacts = EvaluationArtifacts(writer, PATIENCE)
    assert artifacts.flush(0)
    artifacts.add("one")
    artifacts.add("two")
    assert artifacts.flush(PATIENCE)
    assert writer.written == ["one", "two"]
    assert threading.get_ident() not in writer.threads
    assert writer.traced == {False}
    artifacts.close(PATIENCE)


def test_flush_is_false_while_a_run_is_being_written(writer: Writer) -> None:
    writer.goes_on.clear()
    artifacts = EvaluationArtifacts(writer, PATIENCE)
    artifacts.add("one")
    assert not artifacts.flush(0.05)
    writer.goes_on.set()
    assert artifacts.flush(PATIENCE)
    artifacts.close(PATIENCE)


def test_a_failure_is_tried_again() -> None:
    writer = Writer(OSError("not now"), OSError("not now"))
    artifacts = EvaluationArtifacts(writer, PATIENCE)
    artifacts.add("one")
    assert artifacts.flush(PATIENCE)
    assert writer.written == ["one"]
    artifacts.close(PATIENCE)


def test_a_run_is_given_up_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer(*[OSError("no disk")] * 4)
    artifacts = EvaluationArtifacts(writer, PATIENCE)
    with caplog.at_level(logging.WARNING):
        artifacts.add("one")
        artifacts.add("two")
        assert artifacts.flush(PATIENCE)
    assert writer.written == ["two"]
    [line] = [record.getMessage() for record in caplog.records]
    assert "one" in line and "OSError: no disk" in line
    artifacts.close(PATIENCE)


def test_without_mlflow_the_line_names_the_extra(caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer(ImportError("no mlflow"))
    artifacts = EvaluationArtifacts(writer, PATIENCE)
    with caplog.at_level(logging.WARNING):
        artifacts.add("one")
        assert artifacts.flush(PATIENCE)
    assert writer.attempts == 1
    assert "mlflow-bridge[mlflow]" in caplog.text
    artifacts.close(PATIENCE)


def test_after_close_nothing_is_written(writer: Writer) -> None:
    artifacts = EvaluationArtifacts(writer, PATIENCE)
    artifacts.add("one")
    artifacts.close(PATIENCE)
    artifacts.add("two")
    assert artifacts.flush(PATIENCE)
    assert writer.written == ["one"]


def test_more_runs_than_may_wait_are_reported(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(evaluation_artifacts, "_MAX_WAITING", 2)
    writer.goes_on.clear()
    artifacts = EvaluationArtifacts(writer, PATIENCE)
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            artifacts.add(f"run {number}")
    writer.goes_on.set()
    assert artifacts.flush(PATIENCE)
    assert 2 <= len(writer.written) <= 3
    assert "more runs end at once" in caplog.text
    artifacts.close(PATIENCE)
