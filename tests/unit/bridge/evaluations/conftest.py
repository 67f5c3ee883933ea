# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from tests.unit.bridge.evaluations.fake_mlflow import URI, FakeMLflow


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMLflow:
    """MLflow before version 3.18, which has no comparison of its own."""
    made = FakeMLflow()
    module: Any = ModuleType("mlflow")
    module.MlflowClient = made.MlflowClient
    module.get_tracking_uri = made.get_tracking_uri
    entities: Any = ModuleType("mlflow.entities")
    entities.Metric = lambda key, value, timestamp, step: (key, value)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.genai", ModuleType("mlflow.genai"))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    return made
