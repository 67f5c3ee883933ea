# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``compile`` of all optimizers. The evaluations inside of it are its trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._guarding import new_lock
from opentelemetry.instrumentation.dspy._operations.evaluation.scores import as_number, name_of
from opentelemetry.instrumentation.dspy._operations.reading import instance_dict
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of optimizers."""
    return [
        ClassTreePatch(
            "dspy.teleprompt.teleprompt",
            "Teleprompter",
            {"compile": OptimizerOperation(runtime)},
            "optimizer runs get no span",
            closure_on_root=False,
            # MLflow's autologging replaces these with functions that call what it read here.
            closures_in_dspy=True,
        )
    ]


@dataclass
class CompileRecord:
    """The trials of one compilation so far."""

    trials: int = 0
    best_score: float | None = None
    lock: Any = field(default_factory=new_lock)

    def start_trial(self) -> int:
        """The index of a new trial, from 0."""
        with self.lock:
            self.trials += 1
            return self.trials - 1

    def record_score(self, score: float) -> None:
        """Record the score of a trial."""
        with self.lock:
            if self.best_score is None or score > self.best_score:
                self.best_score = score


class OptimizerOperation(Operation):
    """One ``compile`` of one optimizer."""

    name = semconv.Operations.COMPILE

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart:
        optimizer = call.instance
        kind = type(optimizer).__name__
        call.state = CompileRecord()
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.DSPY_OPTIMIZER_TYPE: kind,
        }
        metric = instance_dict(optimizer).get("metric")
        if metric is not None:
            attributes[semconv.DSPY_OPTIMIZER_METRIC] = name_of(metric)
        for argument, attribute in _SETS.items():
            examples = call.kwargs.get(argument)
            if isinstance(examples, (list, tuple)):
                attributes[attribute] = len(examples)  # type: ignore[reportUnknownArgumentType]
        return f"compile {kind}", attributes, INTERNAL

    def inputs(self, call: Call, attributes: Attributes) -> None:
        types = (bool, int, float, str) if self._settings.content_mode.in_spans else (int, float)
        config = {
            name: value
            for name, value in instance_dict(call.instance).items()
            if isinstance(value, types) and not name.startswith("_")
        }
        self._content.put(attributes, semconv.DSPY_OPTIMIZER_CONFIG, self.name, config)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        score = as_number(getattr(result, "score", None))
        if score is not None:
            call.state.record_score(score)

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        record: CompileRecord = call.state
        attributes[semconv.DSPY_OPTIMIZER_TRIAL_COUNT] = record.trials
        if record.best_score is not None:
            attributes[semconv.DSPY_OPTIMIZER_BEST_SCORE] = record.best_score


_SETS = {
    "trainset": semconv.DSPY_OPTIMIZER_TRAINSET_COUNT,
    "valset": semconv.DSPY_OPTIMIZER_VALSET_COUNT,
}


def start_trial_of(call: Call) -> tuple[int | None, Callable[[float], None] | None]:
    """Count an evaluation as a trial of the compilation that it belongs to.

    Returns:
        The trial's index and a function to record its score; None and None outside of a
        compilation.
    """
    parent = call.parent
    while parent is not None:
        if parent.operation.name == semconv.Operations.COMPILE and parent.state is not None:
            record: CompileRecord = parent.state
            return record.start_trial(), record.record_score
        parent = parent.parent
    return None, None
