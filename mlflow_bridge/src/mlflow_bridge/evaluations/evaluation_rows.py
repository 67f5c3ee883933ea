# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The examples of an evaluation in MLflow, one row each, and the pairs of two evaluations."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from mlflow_bridge.traces.finished import FinishedTrace
from opentelemetry.instrumentation.dspy import semconv

PairedOn = Literal["eval_request_id", "inputs_hash"]

MEASURES: Final = ("latency", "tokens", "cost")
"""What is compared beside metrics: seconds, tokens, US dollars."""

_REQUEST_TAG: Final = "mlflow.eval.requestId"
_PAGE: Final = 100
_KEYS: Final[tuple[PairedOn, ...]] = ("eval_request_id", "inputs_hash")
_PROGRAMS: Final = (semconv.Operations.MODULE, semconv.Operations.PREDICT)
_TRUTH: Final = {"yes": 1.0, "no": 0.0}


class Score(NamedTuple):
    """The value of a metric for an example.

    Attributes:
        value: The mean of the values, if the trace has several; not always finite.
        pass_fail: Whether all values are truth values, or yes or no.
    """

    value: float
    pass_fail: bool


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """An example of an evaluation.

    Attributes:
        trace_id: Its trace.
        eval_request_id: The id by which MLflow pairs examples; None if the trace has no such id.
        inputs_hash: Hash of the inputs; None if they were not recorded.
        scores: The score of each metric, without metrics that failed.
        errors: The metrics that have an error and no score.
        measures: Of `MEASURES`, those that the trace has.
    """

    trace_id: str
    eval_request_id: str | None = None
    inputs_hash: str | None = None
    scores: Mapping[str, Score] = field(default_factory=dict[str, Score])
    errors: frozenset[str] = frozenset()
    measures: Mapping[str, float] = field(default_factory=dict[str, float])


class RowPair(NamedTuple):
    """A row of the baseline and a row of the candidate, which are the same example."""

    baseline: EvaluationRow
    candidate: EvaluationRow
    paired_on: PairedOn


@dataclass(frozen=True, slots=True)
class Pairing:
    """The pairs of two evaluations, and the rows without a partner."""

    pairs: Sequence[RowPair]
    unpaired_baseline: Sequence[EvaluationRow]
    unpaired_candidate: Sequence[EvaluationRow]


def rows_of(client: Any, run: Any) -> list[EvaluationRow]:
    """The examples of a run.

    Args:
        client: MLflow's client.
        run: The run.
    """
    return [_row_of(trace, run.info.run_id) for trace in _traces_of(client, run)]


def pair_rows(baseline: Sequence[EvaluationRow], candidate: Sequence[EvaluationRow]) -> Pairing:
    """Pair rows with the same id, then the others with the same inputs.

    Several rows of a run with the same key stay without a partner by this key.
    """
    pairs: list[RowPair] = []
    left_of_baseline, left_of_candidate = list(baseline), list(candidate)
    for key in _KEYS:
        partners = _unique_by(key, left_of_baseline)
        found = [
            RowPair(partners[value], row, key)
            for value, row in _unique_by(key, left_of_candidate).items()
            if value in partners
        ]
        pairs += found
        left_of_baseline = _without(left_of_baseline, [pair.baseline for pair in found])
        left_of_candidate = _without(left_of_candidate, [pair.candidate for pair in found])
    return Pairing(pairs, left_of_baseline, left_of_candidate)


def _unique_by(key: PairedOn, rows: Iterable[EvaluationRow]) -> dict[str, EvaluationRow]:
    keyed = [(value, row) for row in rows if (value := getattr(row, key)) is not None]
    counts = Counter(value for value, _ in keyed)
    return {value: row for value, row in keyed if counts[value] == 1}


def _without(rows: Iterable[EvaluationRow], paired: Iterable[EvaluationRow]) -> list[EvaluationRow]:
    known = {id(row) for row in paired}
    return [row for row in rows if id(row) not in known]


def _traces_of(client: Any, run: Any) -> Iterator[Any]:
    # Traces that arrive meanwhile move others to the next page.
    seen: set[str] = set()
    token: str | None = None
    while True:
        page = client.search_traces(
            locations=[run.info.experiment_id],
            run_id=run.info.run_id,
            max_results=_PAGE,
            page_token=token,
        )
        for trace in page:
            if trace.info.trace_id not in seen:
                seen.add(trace.info.trace_id)
                yield trace
        token = page.token
        if not token:
            return


def _row_of(trace: Any, run_id: str) -> EvaluationRow:
    values: dict[str, list[Score]] = {}
    failed: set[str] = set()
    for assessment in trace.info.assessments or ():
        feedback = getattr(assessment, "feedback", None)
        # A trace may have been assessed for several runs.
        if feedback is None or assessment.valid is False:
            continue
        if assessment.run_id not in (None, run_id):
            continue
        if feedback.error is not None:
            failed.add(assessment.name)
        elif (score := _score(feedback.value)) is not None:
            values.setdefault(assessment.name, []).append(score)
    tags: Mapping[str, str] = trace.info.tags or {}
    finished = _finished(trace)
    return EvaluationRow(
        trace_id=trace.info.trace_id,
        eval_request_id=tags.get(_REQUEST_TAG),
        inputs_hash=_hash(finished.inputs) if finished and finished.inputs is not None else None,
        scores={name: _mean(scores) for name, scores in values.items()},
        errors=frozenset(failed - set(values)),
        measures=_measures(finished) if finished else {},
    )


def _finished(trace: Any) -> FinishedTrace | None:
    """The spans of a trace; None if it has no spans, or they are not of the usual form."""
    try:
        return FinishedTrace.from_mlflow(trace)
    except ValueError:
        return None


def _score(value: Any) -> Score | None:
    if isinstance(value, (bool, int, float)):
        return Score(float(value), isinstance(value, bool))
    known = _TRUTH.get(value.lower()) if isinstance(value, str) else None
    return None if known is None else Score(known, True)


def _mean(scores: Sequence[Score]) -> Score:
    return Score(
        sum(score.value for score in scores) / len(scores),
        all(score.pass_fail for score in scores),
    )


def _hash(inputs: Mapping[str, Any]) -> str:
    text = json.dumps(inputs, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _measures(trace: FinishedTrace) -> dict[str, float]:
    found = {"latency": _seconds(trace), "tokens": float(trace.tokens["total"])}
    if trace.cost is not None:
        found["cost"] = trace.cost
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _seconds(trace: FinishedTrace) -> float:
    """The duration of the program, without the metric, as the run's metric ``latency`` has it."""
    below = (span for span in trace.spans if span.parent == trace.root.id)
    program = next((span for span in below if span.operation in _PROGRAMS), trace.root)
    return program.duration_ms / 1e3
