# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which traces are recorded at all, and which of them go to MLflow.

`mlflow_bridge.DSPySampler` decides when a trace begins, for all exporters. `TailSampling` decides
when the trace has ended, for MLflow alone.
"""

from __future__ import annotations

from mlflow_bridge.sampling.rules import (
    KeepRule,
    agent_exhausted,
    cost_above,
    errors,
    new_program,
    parse_failures,
    predicate,
    score_below,
    slower_than,
    tokens_above,
)
from mlflow_bridge.sampling.tail import TailSampling

__all__ = [
    "KeepRule",
    "TailSampling",
    "agent_exhausted",
    "cost_above",
    "errors",
    "new_program",
    "parse_failures",
    "predicate",
    "score_below",
    "slower_than",
    "tokens_above",
]
