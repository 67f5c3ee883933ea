# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The SQL store's destination checks its needs of MLflow before it opens the store."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._export.destination import make_destination
from mlflow_bridge._export.server.destination import ServerDestination
from mlflow_bridge._export.store.destination import StoreDestination

STORE = MLflowDSPyConfig(tracking_uri="sqlite:////nowhere/mlflow.db")


def pretend_mlflow(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = SimpleNamespace(__version__=version)
    monkeypatch.setattr(importlib, "import_module", lambda _: module)


@pytest.mark.parametrize("version", ["3.15.0", "3.17.2", "3.99.0rc1", "4.0.0", "unknown"])
def test_version_that_is_used(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pretend_mlflow(monkeypatch, version)
    assert isinstance(make_destination(STORE), StoreDestination)


@pytest.mark.parametrize("version", ["2.22.0", "3.4.0", "3.14.9"])
def test_version_that_is_too_old(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pretend_mlflow(monkeypatch, version)
    with pytest.raises(ConfigurationError, match=rf"{version} is too old.*>= 3\.15, < 4"):
        make_destination(STORE)


def test_mlflow_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigurationError) as caught:
        make_destination(STORE)
    message = str(caught.value)
    assert "MLFLOW_TRACKING_URI" in message
    assert "pip install 'mlflow-bridge[mlflow]'" in message
    assert "http" in message


def test_server_is_not_asked_for_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_mlflow(monkeypatch, "1.0")
    config = MLflowDSPyConfig(tracking_uri="http://mlflow.invalid")
    assert isinstance(make_destination(config), ServerDestination)
