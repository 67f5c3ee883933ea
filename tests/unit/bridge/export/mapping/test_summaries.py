# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluations and optimizers, whose spans have figures but no values, show summaries."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.bridge.export.mapped_spans import one

EVALUATION = {
    "dspy.operation": "evaluate",
    "dspy.evaluate.program": "RAG",
    "dspy.evaluate.metric": "exact_match",
    "dspy.evaluate.num_examples": 3,
    "dspy.evaluate.num_threads": 2,
    "dspy.evaluate.score": 66.7,
}
COMPILATION = {
    "dspy.operation": "compile",
    "dspy.optimizer.type": "MIPROv2",
    "dspy.optimizer.metric": "exact_match",
    "dspy.optimizer.trainset.count": 20,
    "dspy.optimizer.trial.count": 4,
    "dspy.optimizer.best_score": 80.0,
}


@pytest.mark.parametrize(
    ("attributes", "inputs", "outputs"),
    [
        (
            EVALUATION,
            {"program": "RAG", "metric": "exact_match", "num_examples": 3},
            {"score": 66.7},
        ),
        (
            COMPILATION,
            {"optimizer": "MIPROv2", "metric": "exact_match", "trainset": 20},
            {"best_score": 80.0, "trials": 4},
        ),
        (
            {
                "dspy.operation": "example",
                "dspy.example.input": '{"q": 1}',
                "dspy.example.score": 0,
            },
            {"q": 1},
            {"score": 0},
        ),
        (
            {"dspy.operation": "metric", "gen_ai.evaluation.score.value": 1.0},
            None,
            {"score": 1.0},
        ),
        ({"dspy.evaluate.score": 66.7}, None, None),
        ({"dspy.operation": ("evaluate",), "dspy.evaluate.score": 66.7}, None, None),
    ],
)
def test_summaries(attributes: dict[str, Any], inputs: Any, outputs: Any) -> None:
    stored = one(attributes)
    assert stored.get("mlflow.spanInputs") == inputs
    assert stored.get("mlflow.spanOutputs") == outputs
    assert attributes.keys() - stored.keys() <= {"dspy.example.input"}


def test_values_that_are_recorded_are_shown_instead() -> None:
    stored = one({**EVALUATION, "mlflow.spanOutputs": '{"mine": 1}'})
    assert stored["mlflow.spanOutputs"] == {"mine": 1}
    assert "mlflow.spanInputs" not in stored
