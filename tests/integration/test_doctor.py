# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The doctor, with a real store and in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlflow_bridge

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow import MlflowClient

pytestmark = pytest.mark.integration


def test_a_deleted_experiment_is_said_to_be(store_uri: str) -> None:
    client = MlflowClient(store_uri)
    client.delete_experiment(client.create_experiment("gone"))
    report = mlflow_bridge.doctor(store_uri, "gone")
    [check] = [check for check in report.checks if check.state == "fail"]
    assert check.name == "experiment"
    assert "deleted" in check.detail


def test_the_command_in_a_process_of_its_own(store_uri: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlflow_bridge", "doctor"],
        env={**os.environ, "MLFLOW_TRACKING_URI": store_uri, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok    round trip" in done.stdout
