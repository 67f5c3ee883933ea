# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

import mlflow_bridge
from mlflow_bridge import environment_variables
from mlflow_bridge._config.settings import environment_variable


@pytest.mark.parametrize("name", mlflow_bridge.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mlflow_bridge, name) is not None
    assert name in dir(mlflow_bridge)


def test_functions_are_not_hidden_by_the_modules_of_their_name() -> None:
    from importlib import import_module

    import_module("mlflow_bridge._setup.autolog")
    import_module("mlflow_bridge._spans.trace_context")
    assert callable(mlflow_bridge.autolog)
    assert callable(mlflow_bridge.trace_context)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mlflow_bridge.no_such_name


@pytest.mark.parametrize("field", ["tracking_uri", "experiment_name", "experiment_id"])
def test_the_listed_environment_variables_are_those_of_the_settings(field: str) -> None:
    name = environment_variable(field)
    assert getattr(environment_variables, name) == name
