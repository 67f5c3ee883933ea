# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A SQL store that is new, locked, missing or out of reach."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from mlflow_bridge._export.exporter import MLflowSpanExporter
from tests.integration.stored import traces_by
from tests.support.dspy_spans import Recorder

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow import MlflowClient

pytestmark = pytest.mark.integration


def test_store_is_made_with_its_directory_at_the_first_delivery(tmp_path: Path) -> None:
    file = tmp_path / "new" / "deeper" / "mlflow.db"
    exporter = MLflowSpanExporter(f"sqlite:///{file}")
    assert not file.parent.exists()
    assert exporter.deliver(Recorder().many(2)) == Sent(2)
    assert file.exists()
    assert len(MlflowClient(f"sqlite:///{file}").search_traces(locations=["0"])) == 2


def unusable(tmp_path: Path, what: str) -> str:
    blocker = tmp_path / "file"
    blocker.write_text("no directory and no database" * 10)
    if what == "directory that cannot be made":
        return f"sqlite:///{blocker}/deeper/mlflow.db"
    if what == "file that is no database":
        return f"sqlite:///{blocker}"
    if what == "database that does not answer":
        return "postgresql://user:geheim@127.0.0.1:1/db"
    directory = tmp_path / "readonly"
    directory.mkdir()
    directory.chmod(0o500)
    return f"sqlite:///{directory}/mlflow.db"


@pytest.mark.parametrize(
    "what",
    [
        "directory that cannot be made",
        "file that is no database",
        "database that does not answer",
        pytest.param(
            "read-only directory",
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere"),
        ),
    ],
)
def test_store_that_cannot_be_opened_is_named_at_once(tmp_path: Path, what: str) -> None:
    exporter = MLflowSpanExporter(unusable(tmp_path, what))
    began = time.monotonic()
    outcome = exporter.deliver(Recorder().many(2))
    # MLflow alone would try for more than 100 s.
    assert time.monotonic() - began < 20
    assert isinstance(outcome, (Retry, Rejected))
    assert "MLFLOW_TRACKING_URI" in outcome.reason
    assert "geheim" not in outcome.reason
    assert not getattr(outcome, "divisible", False)


def test_read_only_directory_by_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As root, modes do not bind; the check before MLflow's own is asked by name instead.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    outcome = MLflowSpanExporter(f"sqlite:///{tmp_path}/mlflow.db").deliver(Recorder().many(1))
    assert isinstance(outcome, Retry)
    assert f"the directory {tmp_path} is not writable" in outcome.reason


def test_store_that_comes_back(tmp_path: Path) -> None:
    blocker = tmp_path / "store"
    blocker.write_text("")
    exporter = MLflowSpanExporter(f"sqlite:///{blocker}/mlflow.db")
    spans = Recorder().many(2)
    assert isinstance(exporter.deliver(spans), Retry)
    blocker.unlink()
    assert exporter.deliver(spans) == Sent(2)


@pytest.mark.parametrize("replaced", [False, True])
def test_store_that_is_removed_or_replaced_while_it_is_open(
    store_uri: str, empty_store: Path, replaced: bool
) -> None:
    exporter = MLflowSpanExporter(store_uri, "mine")
    assert exporter.deliver(Recorder().many(2)) == Sent(2)
    file = Path(store_uri.removeprefix("sqlite:///"))
    file.unlink()
    if replaced:
        shutil.copyfile(empty_store, file)
    later = Recorder().many(3)
    assert exporter.deliver(later) == Sent(3)
    names = {trace.info.tags["mlflow.traceName"] for trace in traces_by(exporter)}
    assert names == {span.name for span in later}
    assert len(traces_by(exporter)) == 3


def test_locked_store_is_waited_for(store_uri: str) -> None:
    exporter = MLflowSpanExporter(store_uri)
    assert exporter.warm_up() is None
    lock = sqlite3.connect(store_uri.removeprefix("sqlite:///"), isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    outcomes: list[Outcome] = []
    spans = Recorder().many(2)
    writer = threading.Thread(target=lambda: outcomes.append(exporter.deliver(spans)))
    writer.start()
    time.sleep(0.5)
    lock.execute("ROLLBACK")
    writer.join(30)
    lock.close()
    assert outcomes == [Sent(2)]


def test_several_exporters_into_one_store_lose_nothing(store_uri: str) -> None:
    def write() -> None:
        exporter = MLflowSpanExporter(store_uri, "shared")
        recorder = Recorder()
        for _ in range(5):
            outcomes.append(exporter.deliver(recorder.rag()))

    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [Sent(8)] * 20
    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name("shared")
    assert experiment is not None
    assert len(client.search_traces(locations=[experiment.experiment_id])) == 20


def test_configuration_from_the_environment(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    exporter = MLflowSpanExporter()
    assert exporter.config == MLflowDSPyConfig()
    assert exporter.deliver(Recorder().many(1)) == Sent(1)
    assert MlflowClient(store_uri).get_experiment_by_name("from the environment") is not None
