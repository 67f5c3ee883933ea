# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The check for variables of earlier integrations of DSPy with MLflow, which have no effect here.

A program that comes from such an integration may still have them in its environment. The page on
migration shows the same table, which a test compares.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final, NamedTuple

from mlflow_bridge._setup.doctor import Check


class Former(NamedTuple):
    """The setting that takes the place of a variable of an earlier integration."""

    variable: str
    """The variable of the bridge."""
    remark: str = ""
    """A difference beyond the name."""


FORMER: Final = {
    "MLFLOW_ENABLE_AUTOLOG": Former("MLFLOW_DSPY_ENABLED"),
    "MLFLOW_TRACE_BUFFER_SIZE": Former("MLFLOW_DSPY_BUFFER_SIZE"),
    "MLFLOW_TRACE_SAMPLING_RATIO": Former(
        "MLFLOW_DSPY_SAMPLING_RATE", "MLflow's variable is for traces that MLflow delivers itself"
    ),
    "MONITORING_LOG_LEVEL": Former("MLFLOW_DSPY_LOG_LEVEL"),
}
"""By the variables of earlier integrations, the variables that take their place."""


def check_former_variables() -> Iterator[Check]:
    """Check for variables that another integration of DSPy with MLflow would have used."""
    for name, former in FORMER.items():
        if name in os.environ:
            remark = f" ({former.remark})" if former.remark else ""
            detail = f"{name} is set and has no effect here; set {former.variable}{remark}"
            yield Check("settings", "warn", detail)
