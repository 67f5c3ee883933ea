# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLFLOW_EXPERIMENT_ID is a number of one store, and MLflow itself sets it in the environment."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mlflow_bridge import MLflowDSPyConfig
from mlflow_bridge._config import base
from mlflow_bridge._config.resolved import resolve_config

SERVER = "http://one:5000"
OTHER = "http://other:5000"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(base, "_reported", set())
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.chdir(tmp_path)


def mlflow_at(uri: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mlflow")
    module.get_tracking_uri = uri  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)


def id_and_warnings(
    caplog: pytest.LogCaptureFixture, config: MLflowDSPyConfig
) -> tuple[str | None, int]:
    return config.experiment_id, sum("MLFLOW_EXPERIMENT_ID" in line for line in caplog.messages)


@pytest.mark.parametrize("uri", [None, SERVER])
def test_with_the_address_of_the_environment_it_counts(
    uri: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert id_and_warnings(caplog, MLflowDSPyConfig()) == ("7", 0)


def test_with_an_argument_that_is_the_address_of_the_environment_it_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{SERVER}/")
    assert id_and_warnings(caplog, MLflowDSPyConfig(tracking_uri=SERVER)) == ("7", 0)


def test_with_the_address_of_mlflow_it_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", OTHER)
    mlflow_at(lambda: f"sqlite:///{tmp_path}/m.db", monkeypatch)
    config = MLflowDSPyConfig(tracking_uri="sqlite:///m.db")
    assert id_and_warnings(caplog, config) == ("7", 0)


@pytest.mark.parametrize("known", [SERVER, "./mlruns", None])
def test_with_another_address_it_is_ignored_with_one_warning(
    known: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing() -> str:
        raise RuntimeError("half imported")

    mlflow_at(failing if known is None else lambda: known, monkeypatch)
    for _ in range(2):
        config = resolve_config({"tracking_uri": OTHER}).config
        assert id_and_warnings(caplog, config) == (None, 1)
    assert config.effective_experiment_name == "Default"
    [line] = caplog.messages
    assert "experiment_id" in line and OTHER in line


def test_without_mlflow_an_argument_is_compared_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    assert id_and_warnings(caplog, MLflowDSPyConfig(tracking_uri=OTHER)) == (None, 1)


def test_the_name_of_the_environment_is_used_instead(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    config = MLflowDSPyConfig(tracking_uri=OTHER)
    assert config.effective_experiment_name == "mine"
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("given", [{"experiment_id": "7"}, {"experiment_name": "mine"}])
def test_an_argument_decides(given: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    config = MLflowDSPyConfig(tracking_uri=OTHER, **given)
    assert id_and_warnings(caplog, config) == (given.get("experiment_id"), 0)


def test_a_copy_with_another_address_does_not_keep_it(caplog: pytest.LogCaptureFixture) -> None:
    config = MLflowDSPyConfig().replace(max_queue_size=7)
    assert config.experiment_id == "7"
    assert id_and_warnings(caplog, config.replace(tracking_uri=OTHER)) == (None, 1)


def test_a_copy_keeps_it_with_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    config = MLflowDSPyConfig()
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    assert config.replace(max_queue_size=7).experiment_id == "7"


def test_a_copy_with_another_address_keeps_an_argument(caplog: pytest.LogCaptureFixture) -> None:
    config = MLflowDSPyConfig(experiment_id="7").replace(tracking_uri=OTHER)
    assert id_and_warnings(caplog, config) == ("7", 0)


def test_a_wrong_address_is_named_alone(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="tracking_uri"):
        MLflowDSPyConfig(tracking_uri="databricks")
    assert caplog.messages == []
