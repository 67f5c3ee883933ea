# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys

import pytest

import mlflow_bridge
from mlflow_bridge import environment_variables
from mlflow_bridge._config.settings import environment_variable

HEAVY = ("dspy", "litellm", "mlflow", "opentelemetry", "pydantic", "requests")


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


@pytest.mark.parametrize(
    "statement",
    [
        "import mlflow_bridge",
        "import mlflow_bridge.environment_variables",
        "from mlflow_bridge._setup.zero_code import adopt_exporters; adopt_exporters()",
    ],
)
def test_a_process_that_does_not_use_the_bridge_pays_nothing(statement: str) -> None:
    source = f"""
import sys
before = set(sys.modules)
{statement}
roots = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(roots & set({HEAVY!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("field", ["tracking_uri", "experiment_name", "experiment_id"])
def test_the_listed_environment_variables_are_those_of_the_settings(field: str) -> None:
    name = environment_variable(field)
    assert getattr(environment_variables, name) == name
