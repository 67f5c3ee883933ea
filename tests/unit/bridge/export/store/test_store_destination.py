# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The SQL store's destination checks for MLflow early, and imports it late."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._export.contract import Retry
from mlflow_bridge._export.destination import make_destination
from mlflow_bridge._export.server.destination import ServerDestination
from mlflow_bridge._export.store import destination as store
from mlflow_bridge._export.store.destination import StoreDestination

STORE = MLflowDSPyConfig(tracking_uri="sqlite:////nowhere/mlflow.db")


def pretend_mlflow(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, imported: str | None = None
) -> list[str]:
    """Pretend a version that the metadata and the module have. Returns what is imported."""
    imports: list[str] = []

    def found(name: str) -> str:
        if installed is None:
            raise PackageNotFoundError(name)
        return installed

    def import_module(name: str) -> object:
        imports.append(name)
        return SimpleNamespace(__version__=imported or installed)

    monkeypatch.setattr(store, "find_spec", lambda name: name)
    monkeypatch.setattr(store, "version", found)
    monkeypatch.setattr(importlib, "import_module", import_module)
    return imports


@pytest.mark.parametrize("version", ["3.15.0", "3.17.2", "3.99.0rc1", "4.0.0", "unknown", None])
def test_version_that_is_used(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    imports = pretend_mlflow(monkeypatch, version, "3.15.0")
    destination = make_destination(STORE)
    assert isinstance(destination, StoreDestination)
    assert "mlflow" not in imports
    assert not destination.is_loaded
    for _ in range(2):
        assert destination.load() is None
    assert destination.is_loaded
    assert imports.count("mlflow") == 1


@pytest.mark.parametrize("version", ["2.22.0", "3.4.0", "3.14.9"])
def test_version_that_is_too_old(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pretend_mlflow(monkeypatch, version)
    with pytest.raises(ConfigurationError, match=rf"{version} is too old.*>= 3\.15, < 4"):
        make_destination(STORE)


def test_old_version_that_only_the_module_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    imports = pretend_mlflow(monkeypatch, None, "3.14.0")
    destination = make_destination(STORE)
    for failure in (destination.load(), destination.warm_up()):
        assert isinstance(failure, Retry)
        assert failure.lasting
        assert "3.14.0 is too old" in failure.reason
    assert destination.is_loaded
    assert imports.count("mlflow") == 1


@pytest.mark.parametrize("missing", ["mlflow", "sqlalchemy"])
def test_mlflow_is_not_installed(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delitem(sys.modules, missing, raising=False)
    monkeypatch.setattr(store, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ConfigurationError) as caught:
        make_destination(STORE)
    message = str(caught.value)
    assert f"No module named '{missing}'" in message
    assert "MLFLOW_TRACKING_URI" in message
    assert "pip install 'mlflow-bridge[mlflow]'" in message
    assert "http" in message


@pytest.mark.parametrize("error", [ImportError("no driver"), RuntimeError("at import")])
def test_mlflow_that_cannot_be_imported_keeps_the_spans(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    pretend_mlflow(monkeypatch, "3.17.2")
    destination = make_destination(STORE)

    def broken(name: str) -> object:
        raise error

    monkeypatch.setattr(importlib, "import_module", broken)
    failure = destination.warm_up()
    assert isinstance(failure, Retry)
    assert failure.lasting
    assert str(error) in failure.reason


def test_server_is_not_asked_for_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_mlflow(monkeypatch, "1.0")
    config = MLflowDSPyConfig(tracking_uri="http://mlflow.invalid")
    assert isinstance(make_destination(config), ServerDestination)
