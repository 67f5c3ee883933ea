# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``dspy.Evaluate``: spans for the evaluation, for each example and for each metric call.

The score of an example is recorded on its span, and as the event of `results`.
"""

from __future__ import annotations

import heapq
import itertools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any, Final, cast

from opentelemetry.trace import format_span_id, format_trace_id

import dspy
from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.begin import begin_call, current_call
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._calls.steps import CallPart
from opentelemetry.instrumentation.dspy._guarding import contain, new_lock
from opentelemetry.instrumentation.dspy._metrics import Metrics
from opentelemetry.instrumentation.dspy._operations.evaluation.results import (
    ExampleRecord,
    ResultEvents,
    put_explanation,
)
from opentelemetry.instrumentation.dspy._operations.evaluation.scores import (
    as_number,
    label_of,
    name_of,
    score_of,
)
from opentelemetry.instrumentation.dspy._operations.evaluation.trials import start_trial_of
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint, method_patch
from opentelemetry.instrumentation.dspy._patching.replacements import (
    observe_result,
    traced_function,
)

_NO_INDEX: Iterator[None] = itertools.repeat(None)
_READ_AT_ONCE = (list[Any].__iter__, tuple[Any, ...].__iter__)
_PARAMETERS = ("program", "metric", "devset", "num_threads")
_METRIC_PARAMETERS = ("example", "prediction")
MAX_WORST_EXAMPLES: Final = 10
"""Largest number of examples in the output of an evaluation."""


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of evaluations; the parallel executor's patch adds examples and metrics."""
    operation = EvaluateOperation(runtime)
    effect = "evaluations, their examples and metrics get no span"
    return [method_patch("dspy.evaluate.evaluate", "Evaluate.__call__", operation, effect)]


@dataclass
class EvaluationRecord:
    """The data of an evaluation while its examples run, possibly in many threads."""

    metric_name: str
    record_trial_score: Callable[[float], None] | None = None
    started: bool = False
    errors: int = 0
    lock: Any = field(default_factory=new_lock)


class EvaluateOperation(Operation):
    """One call of an ``Evaluate``."""

    name = semconv.Operations.EVALUATE

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart:
        given = _given(call)
        evaluate = call.instance
        metric_name = name_of(_chosen(given, "metric", evaluate.metric))
        devset = _chosen(given, "devset", evaluate.devset)
        threads = _chosen(given, "num_threads", evaluate.num_threads)
        index, record_trial_score = start_trial_of(call)
        call.state = EvaluationRecord(metric_name, record_trial_score)
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.DSPY_EVALUATE_METRIC: metric_name,
            semconv.DSPY_EVALUATE_NUM_EXAMPLES: len(devset) if devset else 0,
            semconv.DSPY_EVALUATE_PROGRAM: type(given.get("program")).__name__,
        }
        if isinstance(threads, int):
            attributes[semconv.DSPY_EVALUATE_NUM_THREADS] = threads
        if index is not None:
            attributes[semconv.DSPY_OPTIMIZER_TRIAL_INDEX] = index
        return f"evaluate {metric_name}", attributes, INTERNAL

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        score = as_number(getattr(result, "score", None))
        if score is None:
            return
        if call.state.record_trial_score is not None:
            call.state.record_trial_score(score)
        attributes[semconv.DSPY_EVALUATE_SCORE] = score
        results = getattr(result, "results", None)
        if self._settings.records_outputs and isinstance(results, list):
            worst = _worst(cast("list[Any]", results))
            if not self._settings.records_inputs:
                worst = [{**item, "example": None} for item in worst]
            output = {"score": score, "worst_examples": worst}
            self._content.put(attributes, semconv.DSPY_EVALUATE_OUTPUT, self.name, output)

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        attributes[semconv.DSPY_EVALUATE_ERROR_COUNT] = call.state.errors


def _worst(results: list[Any]) -> list[dict[str, Any]]:
    """The results with the lowest scores, the worst first."""
    scored: list[tuple[float, int, Any]] = []
    for index, (example, prediction, outcome) in enumerate(results):
        score = score_of(outcome)
        if score is not None:
            scored.append((score, index, (example, prediction)))
    # By score and index alone: examples cannot be compared.
    worst = heapq.nsmallest(MAX_WORST_EXAMPLES, scored, key=itemgetter(0, 1))
    return [
        {"index": index, "score": score, "example": example, "prediction": prediction}
        for score, index, (example, prediction) in worst
    ]


class ExampleOperation(Operation):
    """One example of an evaluation: the program call and the metric call."""

    name = semconv.Operations.EXAMPLE
    keeps_values = True

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._content = runtime.content
        self._settings = runtime.settings
        self._metrics = runtime.metrics
        self._results = ResultEvents(runtime)
        self.begins_trace = runtime.settings.evaluation_traces == "per_example"

    def start(self, call: Call) -> SpanStart:
        call.state = ExampleRecord()
        attributes: Attributes = {semconv.DSPY_OPERATION: self.name}
        if self.begins_trace:
            attributes.update(_of_evaluation(call.parent))
        index = call.kwargs.get("index")
        if index is not None:
            attributes[semconv.DSPY_EXAMPLE_INDEX] = index
            return f"example {index}", attributes, INTERNAL
        return "example", attributes, INTERNAL

    def arguments(self, call: Call) -> Mapping[str, Any]:
        return {"example": call.instance}

    def inputs(self, call: Call, attributes: Attributes) -> None:
        if self._settings.records_inputs:
            self._content.put(attributes, semconv.DSPY_EXAMPLE_INPUT, self.name, call.instance)
            if self.begins_trace and isinstance(call.instance, dspy.Example):
                attributes[semconv.DSPY_EXAMPLE_LABEL_FIELDS] = list(call.instance.labels().keys())

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        outcome = result[-1]
        score = score_of(outcome)
        if score is None or call.span is None:
            return
        record = _evaluation_record()
        name = None if record is None else record.metric_name
        if name is not None:
            record_score(self._metrics, name, result)
        attributes[semconv.DSPY_EXAMPLE_SCORE] = score
        if self.begins_trace:
            self._put_outcome(outcome, attributes)
        self._results.emit(call, name, score, outcome)

    def _put_outcome(self, outcome: Any, attributes: Attributes) -> None:
        """Put the rest of the outcome on the first span of the trace, whose result it is."""
        label = label_of(outcome)
        if label is not None:
            attributes[semconv.GEN_AI_EVALUATION_SCORE_LABEL] = label
        if self._settings.records_outputs:
            put_explanation(self._runtime, attributes, outcome, self.name)

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        record = _evaluation_record() if error is not None else None
        if record is not None:
            with record.lock:
                record.errors += 1


class MetricOperation(Operation):
    """One call of a metric."""

    name = semconv.Operations.METRIC

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart:
        name = name_of(call.instance)
        example = None if call.parent is None else call.parent.state
        if type(example) is ExampleRecord:
            example.end_program(None)
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.GEN_AI_EVALUATION_NAME: name,
        }
        return f"metric {name}", attributes, INTERNAL

    def arguments(self, call: Call) -> Mapping[str, Any]:
        return {**dict(zip(_METRIC_PARAMETERS, call.args, strict=False)), **call.kwargs}

    def inputs(self, call: Call, attributes: Attributes) -> None:
        if self._settings.records_inputs:
            given = dict(self.arguments(call))
            if not self._settings.records_outputs:
                given.pop("prediction", None)  # an output of the program
            self._content.put(attributes, semconv.DSPY_METRIC_INPUT, self.name, given)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        score = score_of(result)
        if score is not None:
            attributes[semconv.GEN_AI_EVALUATION_SCORE_VALUE] = score
        label = label_of(result)
        if label is not None:
            attributes[semconv.GEN_AI_EVALUATION_SCORE_LABEL] = label
        if self._runtime.settings.records_outputs:
            put_explanation(self._runtime, attributes, result, self.name)


class ExampleSpans:
    """Spans around the items that an evaluation passes to the parallel executor."""

    def __init__(self, runtime: Runtime) -> None:
        self._metrics = runtime.metrics
        self._begin_example = partial(begin_call, ExampleOperation(runtime), runtime, object, False)
        self._begin_metric = partial(begin_call, MetricOperation(runtime), runtime, object, False)

    def wrap(self, function: Callable[[Any], Any], data: Any) -> Callable[[Any], Any]:
        """The executor's function with spans; outside of an evaluation, the function itself."""
        try:
            return self._wrap(function, data)
        except Exception as error:
            contain(error)
            return function

    def _wrap(self, function: Callable[[Any], Any], data: Any) -> Callable[[Any], Any]:
        call = current_call()
        if call is None or call.operation.name != semconv.Operations.EVALUATE:
            return function
        record: EvaluationRecord | None = call.state
        # An example without a span may use the executor itself, even after the end of its
        # evaluation. Its items are not examples.
        if record is None or record.started:
            return function
        record.started = True
        if not call.recording:
            return self._measured(function, record.metric_name)
        indices = _indices(data)

        def begin_example(item: Any, *_arguments: Any) -> Call | CallPart | None:
            return self._begin_example(item, (), {"index": next(indices.get(id(item), _NO_INDEX))})

        return traced_function(self._with_metric_spans(function), begin_example)

    def _begin_metric_call(
        self, metric: Any, example: Any, arguments: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Call | CallPart | None:
        return self._begin_metric(metric, (example, *arguments), options)

    def _measured(self, function: Callable[[Any], Any], metric_name: str) -> Callable[[Any], Any]:
        """The executor's function without spans, with its scores measured."""
        metrics = self._metrics
        if not metrics.enabled:
            return function

        def record(result: Any, *_item: Any) -> None:
            record_score(metrics, metric_name, result)

        return observe_result(function, record)

    def _with_metric_spans(self, function: Any) -> Any:
        # Only Evaluate's own closure holds the metric. Tracing the metric in a copy of the closure
        # changes nothing that other code can see, including user callbacks.
        if not isinstance(function, types.FunctionType) or function.__closure__ is None:
            return function
        names = function.__code__.co_freevars
        if "metric" not in names:
            return function
        cells = list(function.__closure__)
        position = names.index("metric")
        metric = cells[position].cell_contents
        traced = traced_function(metric, partial(self._begin_metric_call, metric))
        cells[position] = types.CellType(traced)
        return types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(cells),
        )


def _indices(data: Any) -> dict[int, Iterator[int]]:
    """The indices of each example, in turn if a data set has the same example several times.

    Empty if reading the data set would run the program's code, which may load examples again.
    """
    kind: type[Any] = type(data)  # type: ignore[reportUnknownVariableType]
    if getattr(kind, "__iter__", None) not in _READ_AT_ONCE:
        return {}
    found: dict[int, list[int]] = {}
    for index, item in enumerate(data):
        found.setdefault(id(item), []).append(index)
    # Cyclic, since a straggler is run a second time.
    return {key: itertools.cycle(indices) for key, indices in found.items()}


def _of_evaluation(evaluation: Call | None) -> Attributes:
    """The attributes by which the trace of an example is found."""
    if evaluation is None or evaluation.span is None:
        return {}
    context = evaluation.span.get_span_context()
    return {
        semconv.DSPY_EVALUATE_TRACE_ID: format_trace_id(context.trace_id),
        semconv.DSPY_EVALUATE_SPAN_ID: format_span_id(context.span_id),
        semconv.DSPY_EVALUATE_METRIC: evaluation.state.metric_name,
    }


def record_score(metrics: Metrics, metric_name: str, result: Any) -> None:
    """Record the metric of the score in the result of one example."""
    score = score_of(result[-1])
    if score is not None:
        metrics.record_score(score, {semconv.GEN_AI_EVALUATION_NAME: metric_name})


def _evaluation_record() -> EvaluationRecord | None:
    # An example that was abandoned as a straggler may end after its evaluation.
    evaluation = current_call(semconv.Operations.EVALUATE)
    return None if evaluation is None else evaluation.state


def _given(call: Call) -> dict[str, Any]:
    return {**dict(zip(_PARAMETERS, call.args, strict=False)), **call.kwargs}


def _chosen(given: dict[str, Any], name: str, default: Any) -> Any:
    value = given.get(name)
    return default if value is None else value
