# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of metrics, and scores and feedback in their results."""

from __future__ import annotations

import functools
import math
from typing import Any

import dspy
from opentelemetry.instrumentation.dspy._guarding import pass_by_value


def name_of(metric: Any) -> str:
    """A metric's name: that of the function, or of the class of a callable object."""
    inner = metric.func if isinstance(metric, functools.partial) else metric
    try:
        name = getattr(inner, "__name__", None)
    except BaseException as error:  # raised by a property of the program
        pass_by_value(error)
        name = None
    return name if isinstance(name, str) else type(inner).__name__


def score_of(outcome: Any) -> float | None:
    """The score in a metric's result: a number, or a Prediction with a score."""
    if isinstance(outcome, dspy.Prediction):
        outcome = outcome.get("score")
    return as_number(outcome)


def feedback_of(outcome: Any) -> str | None:
    """The feedback in a metric's result, if there is any."""
    feedback = outcome.get("feedback") if isinstance(outcome, dspy.Prediction) else None
    return feedback if isinstance(feedback, str) else None


def label_of(outcome: Any) -> str | None:
    """``pass`` or ``fail`` for a metric that answers yes or no."""
    if isinstance(outcome, dspy.Prediction):
        outcome = outcome.get("score")
    if isinstance(outcome, bool):
        return "pass" if outcome else "fail"
    return None


def own_label_of(outcome: Any) -> str | None:
    """The label in a metric's result, which is content; None if it has none."""
    label = outcome.get("label") if isinstance(outcome, dspy.Prediction) else None
    return label if isinstance(label, str) else None


def as_number(value: Any) -> float | None:
    """A finite number as float, including numpy's; None for any other value."""
    if isinstance(value, (bool, int, float)):
        number = float(value)
    elif type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        number = float(value.item())
    else:
        return None
    return number if math.isfinite(number) else None
