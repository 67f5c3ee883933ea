# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Summaries as inputs and outputs of evaluations and optimizers.

Spans of evaluations and optimizers have figures but no values. Without these summaries, MLflow's
list of traces would show only their duration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from opentelemetry.instrumentation.dspy import semconv


class Summary(NamedTuple):
    """Figures under short names; ``None`` if the span has no such figures."""

    inputs: dict[str, Any] | None
    outputs: dict[str, Any] | None


_Names = Mapping[str, str]

_INPUTS: Final[Mapping[str, _Names]] = {
    semconv.Operations.EVALUATE: {
        semconv.DSPY_EVALUATE_PROGRAM: "program",
        semconv.DSPY_EVALUATE_METRIC: "metric",
        semconv.DSPY_EVALUATE_NUM_EXAMPLES: "num_examples",
    },
    semconv.Operations.COMPILE: {
        semconv.DSPY_OPTIMIZER_TYPE: "optimizer",
        semconv.DSPY_OPTIMIZER_METRIC: "metric",
        semconv.DSPY_OPTIMIZER_TRAINSET_COUNT: "trainset",
        semconv.DSPY_OPTIMIZER_VALSET_COUNT: "valset",
    },
}
_OUTPUTS: Final[Mapping[str, _Names]] = {
    semconv.Operations.EVALUATE: {semconv.DSPY_EVALUATE_SCORE: "score"},
    semconv.Operations.EXAMPLE: {semconv.DSPY_EXAMPLE_SCORE: "score"},
    semconv.Operations.METRIC: {semconv.GEN_AI_EVALUATION_SCORE_VALUE: "score"},
    semconv.Operations.COMPILE: {
        semconv.DSPY_OPTIMIZER_BEST_SCORE: "best_score",
        semconv.DSPY_OPTIMIZER_TRIAL_COUNT: "trials",
    },
}


def summary_of(source: Mapping[str, Any]) -> Summary:
    """The summary of the span with these attributes."""
    operation = source.get(semconv.DSPY_OPERATION)
    return Summary(_figures(source, _INPUTS, operation), _figures(source, _OUTPUTS, operation))


def _figures(
    source: Mapping[str, Any], names: Mapping[str, _Names], operation: Any
) -> dict[str, Any] | None:
    wanted = names.get(operation) if isinstance(operation, str) else None
    if wanted is None:
        return None
    return {name: source[key] for key, name in wanted.items() if key in source} or None
