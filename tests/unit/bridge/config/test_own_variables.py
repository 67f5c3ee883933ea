# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Variables of the bridge for settings that MLflow's variables set."""

from __future__ import annotations

import pytest

from mlflow_bridge import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._config.resolved import resolve_config


def test_an_experiment_of_the_bridge_goes_before_the_id_of_mlflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "runs")
    monkeypatch.setenv("MLFLOW_DSPY_EXPERIMENT", "traces")
    config = MLflowDSPyConfig()
    assert (config.experiment_id, config.effective_experiment_name) == (None, "traces")
    assert config.replace(max_batch_size=3).effective_experiment_name == "traces"
    by_id = MLflowDSPyConfig(experiment_id="9")
    assert (by_id.experiment_id, by_id.effective_experiment_name) == ("9", None)
    assert MLflowDSPyConfig(experiment_name="given").effective_experiment_name == "given"
    monkeypatch.setenv("MLFLOW_DSPY_EXPERIMENT_ID", "8")
    assert MLflowDSPyConfig().experiment_id == "8"
    assert MLflowDSPyConfig(experiment_name="given").experiment_id is None


def test_an_id_of_mlflow_belongs_to_the_address_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("MLFLOW_DSPY_TRACKING_URI", "http://traces:5000")
    config = MLflowDSPyConfig()
    assert (config.tracking_uri, config.experiment_id) == ("http://traces:5000", None)


def test_an_error_names_the_variable_that_has_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_INSECURE_TLS", "perhaps")
    with pytest.raises(ConfigurationError, match="MLFLOW_DSPY_INSECURE_TLS"):
        MLflowDSPyConfig()
    assert "MLFLOW_DSPY_INSECURE_TLS" in str(resolve_config({}).obstacle)


def test_an_empty_variable_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs:5000")
    monkeypatch.setenv("MLFLOW_DSPY_TRACKING_URI", " ")
    assert MLflowDSPyConfig().tracking_uri == "http://runs:5000"


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_TRACKING_PASSWORD", "canary")
    config = MLflowDSPyConfig()
    assert config.tracking_password is not None
    assert config.tracking_password.get_secret_value() == "canary"
    assert "canary" not in repr(config)
