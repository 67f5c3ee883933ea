# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The doctor, with a real store and in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import mlflow_bridge
from tests.support.children import MLFLOW

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
    child = MLFLOW.start(
        "import runpy; runpy.run_module('mlflow_bridge', run_name='__main__', alter_sys=True)",
        "doctor",
        env={**os.environ, "MLFLOW_TRACKING_URI": store_uri, "HOME": str(tmp_path)},
        cwd=tmp_path,
    )
    output, errors = child.communicate()
    assert (child.returncode, errors) == (0, "")
    assert "ok    round trip" in output
