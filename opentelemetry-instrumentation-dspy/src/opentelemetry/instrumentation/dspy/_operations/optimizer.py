# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``compile`` of all optimizers. The evaluations inside of it are its trials."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._guarding import guarded
from opentelemetry.instrumentation.dspy._operations.evaluation.scores import as_number, name_of
from opentelemetry.instrumentation.dspy._operations.evaluation.trials import CompileRecord
from opentelemetry.instrumentation.dspy._operations.modules.program_hash import (
    put_program_hash,
)
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
        given = _arguments_of(call)
        for argument, attribute in _SETS.items():
            size = _size_of(given.get(argument))
            if size is not None:
                attributes[attribute] = size
        for argument, attribute in _PROGRAMS.items():
            kinds = _classes_of(given.get(argument))
            if kinds:
                attributes[attribute] = kinds
        return f"compile {kind}", attributes, INTERNAL

    def arguments(self, call: Call) -> Mapping[str, Any]:
        return _arguments_of(call)

    def inputs(self, call: Call, attributes: Attributes) -> None:
        guarded(put_program_hash, attributes, _arguments_of(call).get("student"))
        types = (bool, int, float, str) if self._settings.content_mode.in_spans else (int, float)
        config = {
            name: value
            for name, value in instance_dict(call.instance).items()
            if isinstance(value, types) and not name.startswith("_")
        }
        self._content.put(attributes, semconv.DSPY_OPTIMIZER_CONFIG, self.name, config)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        if semconv.DSPY_OPTIMIZER_VALSET_COUNT not in call.start_attributes:
            # Some optimizers split a validation set off.
            size = _size_of(instance_dict(call.instance).get("valset"))
            if size is not None:
                attributes[semconv.DSPY_OPTIMIZER_VALSET_COUNT] = size
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
_PROGRAMS = {
    "student": semconv.DSPY_OPTIMIZER_STUDENT,
    "teacher": semconv.DSPY_OPTIMIZER_TEACHER,
}


def _arguments_of(call: Call) -> dict[str, Any]:
    """The arguments of ``compile`` by name."""
    if not call.args:
        return dict(call.kwargs)
    kind: type[Any] = type(call.instance)  # type: ignore[reportUnknownVariableType]
    names = list(inspect.signature(kind.compile).parameters)[1:]
    return {**dict(zip(names, call.args, strict=False)), **call.kwargs}


def _size_of(examples: Any) -> int | None:
    return len(cast("list[Any]", examples)) if isinstance(examples, (list, tuple)) else None


def _classes_of(programs: Any) -> str | None:
    """Names of the classes of a program, or of a list of programs."""
    if programs is None:
        return None
    each = cast("list[Any]", programs if isinstance(programs, (list, tuple)) else [programs])
    names = [type(program).__name__ for program in each]
    return ", ".join(dict.fromkeys(names)) or None
