# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What needs an interpreter that has imported nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlflow_bridge.sampling.keys import number_of

HEAVY = ("dspy", "litellm", "mlflow", "opentelemetry", "pydantic", "requests")


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
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.split() == []


def test_a_key_has_the_same_number_in_every_process() -> None:
    source = "from mlflow_bridge.sampling.keys import number_of; print(number_of('sess\\u00e9'))"
    other = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(other.stdout) == number_of("sessé")
