# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters, metrics and state of the run of an evaluation, from its span and its traces."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry.trace import StatusCode

from mlflow_bridge._export.mapping.span import MappedSpan
from mlflow_bridge._export.mapping.storable import clean_text, parsed_json
from mlflow_bridge._export.runs.contract import RunFigures
from mlflow_bridge._export.runs.totals import Calls, Totals
from mlflow_bridge._spans.attributes import as_dict
from opentelemetry.instrumentation.dspy import semconv

_MAX_PARAMETER: Final = 6000
_MAX_NAME: Final = 200
_MAX_SETTINGS: Final = 60
# What MLflow accepts in the name of a metric.
_NOT_IN_NAMES: Final = re.compile(r"[^\w\-. /:]")
_KILLED: Final = frozenset({"KeyboardInterrupt", "SystemExit", "CancelledError", "GeneratorExit"})
_QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

_PARAMETERS: Final = {
    semconv.DSPY_EVALUATE_METRIC: "metric",
    semconv.DSPY_EVALUATE_NUM_EXAMPLES: "devset_size",
    semconv.DSPY_EVALUATE_NUM_THREADS: "num_threads",
    semconv.DSPY_EVALUATE_PROGRAM: "program",
    semconv.DSPY_PROGRAM_HASH: "program_hash",
    semconv.DSPY_OPTIMIZER_TYPE: "optimizer",
    semconv.DSPY_OPTIMIZER_METRIC: "metric",
    semconv.DSPY_OPTIMIZER_STUDENT: "student",
    semconv.DSPY_OPTIMIZER_TEACHER: "teacher",
    semconv.DSPY_OPTIMIZER_TRAINSET_COUNT: "trainset_size",
    semconv.DSPY_OPTIMIZER_VALSET_COUNT: "valset_size",
    semconv.DSPY_OPTIMIZER_TRIAL_INDEX: "trial",
}
_FIGURES: Final = {
    semconv.DSPY_EVALUATE_SCORE: "score",
    semconv.DSPY_EVALUATE_ERROR_COUNT: "errors",
    semconv.DSPY_OPTIMIZER_BEST_SCORE: "best_score",
    semconv.DSPY_OPTIMIZER_TRIAL_COUNT: "trials",
}


def figures_of(span: MappedSpan, totals: Totals) -> RunFigures:
    """The figures of a run.

    Args:
        span: The span of the evaluation or optimizer.
        totals: Sums over the traces of its examples.
    """
    source = as_dict(span.source.attributes)
    return RunFigures(
        parameters={
            **_named(source, _PARAMETERS),
            **_named({semconv.DSPY_PROGRAM_HASH: totals.program_hash}, _PARAMETERS),
            **_optimizer_parameters(source),
            **_model_parameters(totals.calls),
        },
        metrics=dict(_metrics(source, totals)),
        status=_status(span, source),
        end_ms=(span.source.end_time or 0) // 1_000_000,
    )


def _named(source: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    return {
        name: clean_text(str(source[key]), _MAX_PARAMETER)
        for key, name in names.items()
        if source.get(key) is not None
    }


def _optimizer_parameters(source: Mapping[str, Any]) -> dict[str, str]:
    """The settings of an optimizer, of which spans have texts, numbers and switches only."""
    config: Any = parsed_json(source.get(semconv.DSPY_OPTIMIZER_CONFIG))
    if not isinstance(config, dict):
        return {}
    return {
        f"optimizer.{name}"[:_MAX_NAME]: clean_text(str(value), _MAX_PARAMETER)
        for name, value in list(cast("dict[str, Any]", config).items())[:_MAX_SETTINGS]
    }


def _model_parameters(calls: Calls) -> dict[str, str]:
    """The settings of the calls of models; several values of a setting in one text."""
    return {
        "lm" if name == "model" else f"lm.{name}"[:_MAX_NAME]: clean_text(
            ", ".join(values), _MAX_PARAMETER
        )
        for name, values in calls.settings.items()
    }


def _metrics(source: Mapping[str, Any], totals: Totals) -> Iterator[tuple[str, float]]:
    for key, name in _FIGURES.items():
        if isinstance(source.get(key), (int, float)):
            yield name, float(source[key])
    metric = source.get(semconv.DSPY_EVALUATE_METRIC)
    if isinstance(metric, str) and totals.scores:
        name = _NOT_IN_NAMES.sub("_", metric)[:_MAX_NAME]
        yield f"{name}/mean", statistics.fmean(totals.scores)
        yield f"{name}/min", min(totals.scores)
        yield f"{name}/max", max(totals.scores)
    if totals.traces:
        yield "traces", float(totals.traces)
        yield from _latency(totals.seconds)
    for kind, number in totals.calls.tokens.items():
        yield f"tokens/{kind.removesuffix('_tokens')}", float(number)
    if totals.calls.cost is not None:
        yield "cost/total", totals.calls.cost


def _latency(seconds: Sequence[float]) -> Iterator[tuple[str, float]]:
    if not seconds:
        return
    ordered = sorted(seconds)
    yield "latency/mean", statistics.fmean(ordered)
    yield "latency/max", ordered[-1]
    for name, share in _QUANTILES.items():
        yield f"latency/{name}", ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def _status(span: MappedSpan, source: Mapping[str, Any]) -> str:
    if span.source.status.status_code is not StatusCode.ERROR:
        return "FINISHED"
    kind = str(source.get("error.type")).rpartition(".")[2]
    return "KILLED" if kind in _KILLED else "FAILED"
