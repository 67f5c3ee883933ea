# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Comparison of two evaluations of the same examples."""

from __future__ import annotations

import importlib
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from mlflow_bridge._config.tracking_uri import is_address_in_use
from mlflow_bridge.evaluations.comparison_result import (
    MLFLOWS_FIELDS,
    EvaluationComparison,
    ScorerComparison,
)
from mlflow_bridge.evaluations.evaluation_rows import (
    MEASURES,
    EvaluationRow,
    Pairing,
    Score,
    pair_rows,
    rows_of,
)
from mlflow_bridge.evaluations.paired_statistics import FEW_PAIRS, compare_values
from mlflow_bridge.evaluations.run_lookup import RunLookup, configuration_error, needed, run_lookup

logger = logging.getLogger(__name__)

_CALLER: Final = "compare_evaluations"
_LOGGED: Final = ("diff", "ci_low", "ci_high", "p_value", "effect_size", "n_paired")
_SHORT_ID: Final = 8
# What MLflow accepts in the name of a metric.
_NOT_IN_NAMES: Final = re.compile(r"[^\w\-. /:]")
_MAX_NAME: Final = 200
_MLFLOWS_SEED: Final = 0


def compare_evaluations(
    candidate: str,
    baseline: str,
    *,
    scorers: Sequence[str] | None = None,
    greater_is_better: Mapping[str, bool] | None = None,
    failure_score: float | None = None,
    confidence_level: float = 0.95,
    seed: int = 0,
    log_results: bool = False,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> EvaluationComparison:
    """Compare two evaluations of the same examples: is the candidate better, and not by chance?

    Works on the runs that ``autolog(log_evals=True)`` makes of ``dspy.Evaluate``, and on those of
    ``mlflow.genai.evaluate``. Examples are paired by their ids, or else by their inputs.
    Values that are all 0 or 1 are tested by McNemar's test, others by Wilcoxon's signed-rank test.
    From MLflow 3.18 on, ``mlflow.genai.compare_evaluations`` computes the metrics, and before that
    SciPy in the same way.

    An example that failed has an error in place of a score. A pair with such an example is left
    out, as MLflow does; ``baseline_errors`` and ``candidate_errors`` count them. With
    ``failure_score`` it counts as this score, as in the score of ``dspy.Evaluate``.

    Args:
        candidate: Id or name of the run that may be better.
        baseline: Id or name of the run to compare with.
        scorers: Names of metrics; by default all that both runs have.
        greater_is_better: Metrics for which less is better, with False.
        failure_score: Score of an example that failed; None leaves it out. Of DSPy, it is 0.0 by
            default.
        confidence_level: Level of the confidence interval of the mean difference.
        seed: Seed of the bootstrap, so that the interval is the same each time.
        log_results: Write the statistics to the run of the candidate, as MLflow does, as metrics
            ``compare/<first 8 characters of the baseline's id>/<metric>/<statistic>``.
        tracking_uri: Where the runs are; by default that of `autolog`, or the configured one.
        experiment: Name or id of the experiment in which names of runs are looked up; by default
            that of `autolog`, or the configured one.

    Raises:
        ConfigurationError: An argument is not accepted, a run is not found or has no traces, or
            MLflow is not installed.

    Example:
        >>> result = compare_evaluations("few-shot", "zero-shot")  # doctest: +SKIP
        >>> print(result.summary())  # doctest: +SKIP
        >>> result.assert_improved(["answer_exact_match"])  # doctest: +SKIP
    """
    options = _Options(dict(greater_is_better or {}), failure_score, confidence_level, seed)
    options.check()
    lookup = run_lookup(_CALLER, tracking_uri, experiment)
    needed(_CALLER, "scipy.stats")
    runs = lookup.run("candidate", candidate), lookup.run("baseline", baseline)
    if runs[0].info.run_id == runs[1].info.run_id:
        raise configuration_error(
            f"candidate and baseline of {_CALLER}() are both the run {runs[0].info.run_id}",
            "two different runs",
        )
    of_candidate = _rows(lookup, "candidate", runs[0])
    of_baseline = _rows(lookup, "baseline", runs[1])
    comparison = _Comparison(pair_rows(of_baseline, of_candidate), options)
    result = comparison.result(runs[0].info.run_id, runs[1].info.run_id)
    result = _chosen(_by_mlflow(result, lookup, comparison), scorers)
    result = replace(result, notes=tuple(_notes(result, comparison, runs)))
    for note in result.notes:
        logger.warning("%s", note)
    if log_results:
        _log(lookup.client, result)
    return result


@dataclass(frozen=True)
class _Options:
    greater_is_better: Mapping[str, bool]
    failure_score: float | None
    confidence_level: float
    seed: int

    def check(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: A value is not accepted.
        """
        if not 0 < self.confidence_level < 1:
            raise configuration_error(
                f"confidence_level of {_CALLER}() is {self.confidence_level!r}",
                "a number between 0 and 1",
            )
        if self.failure_score is not None and not math.isfinite(self.failure_score):
            raise configuration_error(
                f"failure_score of {_CALLER}() is {self.failure_score!r}", "a finite number or None"
            )
        if self.seed < 0:
            raise configuration_error(
                f"seed of {_CALLER}() is {self.seed!r}", "a whole number, at least 0"
            )


class _Comparison:
    """The pairs of two evaluations, compared metric by metric."""

    def __init__(self, pairing: Pairing, options: _Options) -> None:
        self.pairing = pairing
        self.options = options
        self.rows_of_baseline = [
            *(pair.baseline for pair in pairing.pairs),
            *pairing.unpaired_baseline,
        ]
        self.rows_of_candidate = [
            *(pair.candidate for pair in pairing.pairs),
            *pairing.unpaired_candidate,
        ]

    def result(self, candidate_run_id: str, baseline_run_id: str) -> EvaluationComparison:
        """The comparison by SciPy."""
        names = sorted(_metrics(self.rows_of_baseline) & _metrics(self.rows_of_candidate))
        return EvaluationComparison(
            candidate_run_id=candidate_run_id,
            baseline_run_id=baseline_run_id,
            scorers={name: self._metric(name) for name in names},
            paired_rows=[
                {
                    "baseline_trace_id": pair.baseline.trace_id,
                    "candidate_trace_id": pair.candidate.trace_id,
                    "paired_on": pair.paired_on,
                    "scores": dict(self._scores(pair.baseline, pair.candidate, names)),
                }
                for pair in self.pairing.pairs
            ],
            unpaired_baseline_trace_ids=[row.trace_id for row in self.pairing.unpaired_baseline],
            unpaired_candidate_trace_ids=[row.trace_id for row in self.pairing.unpaired_candidate],
            measures=dict(self._measures()),
        )

    def with_errors(self, compared: ScorerComparison) -> ScorerComparison:
        """The comparison of a metric, with the number of examples that failed."""
        name = compared.scorer
        return replace(
            compared,
            baseline_errors=sum(name in row.errors for row in self.rows_of_baseline),
            candidate_errors=sum(name in row.errors for row in self.rows_of_candidate),
        )

    def has_only_numbers(self) -> bool:
        """Whether each score is a finite number."""
        return all(
            math.isfinite(score.value)
            for row in (*self.rows_of_baseline, *self.rows_of_candidate)
            for score in row.scores.values()
        )

    def score(self, row: EvaluationRow, name: str) -> Score | None:
        """The score of an example; None if it has no score that counts."""
        if name in row.errors and self.options.failure_score is not None:
            failure = float(self.options.failure_score)
            return Score(failure, failure in (0.0, 1.0))
        found = row.scores.get(name)
        return found if found is not None and math.isfinite(found.value) else None

    def _scores(
        self, baseline: EvaluationRow, candidate: EvaluationRow, names: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, float]]]:
        for name in names:
            before, after = self.score(baseline, name), self.score(candidate, name)
            if before is not None and after is not None:
                delta = after.value - before.value
                found = {"baseline": before.value, "candidate": after.value, "delta": delta}
                yield name, found

    def _metric(self, name: str) -> ScorerComparison:
        found = [
            (before, after)
            for pair in self.pairing.pairs
            if (before := self.score(pair.baseline, name)) is not None
            and (after := self.score(pair.candidate, name)) is not None
        ]
        compared = self._compared(
            name,
            [(before.value, after.value) for before, after in found],
            pass_fail=all(score.pass_fail for both in found for score in both),
            greater_is_better=self.options.greater_is_better.get(name, True),
        )
        return self.with_errors(compared)

    def _measures(self) -> Iterator[tuple[str, ScorerComparison]]:
        for name in MEASURES:
            values = [
                (pair.baseline.measures[name], pair.candidate.measures[name])
                for pair in self.pairing.pairs
                if name in pair.baseline.measures and name in pair.candidate.measures
            ]
            # Traces without usage have 0 tokens.
            if any(value for both in values for value in both):
                yield name, self._compared(name, values, pass_fail=False, greater_is_better=False)

    def _compared(
        self,
        name: str,
        values: Sequence[tuple[float, float]],
        *,
        pass_fail: bool,
        greater_is_better: bool,
    ) -> ScorerComparison:
        return compare_values(
            name,
            [before for before, _ in values],
            [after for _, after in values],
            pass_fail=pass_fail,
            greater_is_better=greater_is_better,
            confidence_level=self.options.confidence_level,
            seed=self.options.seed,
        )


def _rows(lookup: RunLookup, argument: str, run: Any) -> list[EvaluationRow]:
    rows = rows_of(lookup.client, run)
    if rows:
        return rows
    raise configuration_error(
        f"{argument} of {_CALLER}() is the run {run.info.run_id} ({run.info.run_name}), to which "
        "no trace is linked",
        "a run of an evaluation, such as autolog(log_evals=True) makes",
    )


def _metrics(rows: Sequence[EvaluationRow]) -> set[str]:
    """The metrics of a run. One that failed for every example is also compared."""
    return {name for row in rows for name in (*row.scores, *row.errors)}


def _by_mlflow(
    result: EvaluationComparison, lookup: RunLookup, comparison: _Comparison
) -> EvaluationComparison:
    """The result with the statistics of MLflow's own function, if it can compute them."""
    own = _own_function(lookup, comparison)
    if own is None:
        return result
    try:
        found = own(
            result.candidate_run_id,
            result.baseline_run_id,
            greater_is_better=dict(comparison.options.greater_is_better),
            confidence_level=comparison.options.confidence_level,
        )
        computed = {
            name: comparison.with_errors(_of_mlflow(one)) for name, one in found.scorers.items()
        }
        return replace(
            result,
            # A metric that failed for every example is not known to MLflow's function.
            scorers={**result.scorers, **computed},
            paired_rows=list(found.paired_rows),
            unpaired_baseline_trace_ids=list(found.unpaired_baseline_trace_ids),
            unpaired_candidate_trace_ids=list(found.unpaired_candidate_trace_ids),
            engine="mlflow",
        )
    except Exception as error:  # it is experimental
        from mlflow_bridge._config.base import report_once

        report_once(
            f"mlflow.genai.compare_evaluations failed ({type(error).__name__}: {error}); "
            "compare_evaluations() computes the same statistics by SciPy."
        )
        return result


def _own_function(lookup: RunLookup, comparison: _Comparison) -> Any:
    """MLflow's function; None if this MLflow has none, or it would read or count otherwise."""
    options = comparison.options
    if options.seed != _MLFLOWS_SEED or options.failure_score is not None:
        return None
    if not comparison.has_only_numbers():
        return None
    # It reads the store of MLflow's global setting, which is not changed here.
    if not is_address_in_use(lookup.tracking_uri):
        return None
    try:
        genai: Any = importlib.import_module("mlflow.genai")
    except ImportError:
        return None
    return getattr(genai, "compare_evaluations", None)


def _of_mlflow(own: Any) -> ScorerComparison:
    return ScorerComparison(**{name: getattr(own, name) for name in MLFLOWS_FIELDS})


def _chosen(result: EvaluationComparison, names: Sequence[str] | None) -> EvaluationComparison:
    if names is None:
        return result
    wanted = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in result.scorers]
    if unknown or not wanted:
        known = ", ".join(result.scorers) or "these runs have no metric in common"
        raise configuration_error(
            f"scorers of {_CALLER}() is {wanted!r}", f"metrics that both runs have ({known})"
        )
    return replace(result, scorers={name: result.scorers[name] for name in wanted})


def _notes(
    result: EvaluationComparison, comparison: _Comparison, runs: Sequence[Any]
) -> Iterator[str]:
    for side, run in zip(("candidate", "baseline"), runs, strict=True):
        if run.info.status != "FINISHED":
            yield (
                f"The {side} run {run.info.run_id} is {run.info.status}, so that examples may be "
                "missing."
            )
    alone = len(result.unpaired_baseline_trace_ids), len(result.unpaired_candidate_trace_ids)
    if any(alone):
        yield (
            f"{alone[0]} examples of the baseline and {alone[1]} of the candidate have no "
            "unambiguous partner in the other run, and are left out."
        )
    if not result.scorers:
        yield (
            f"No metric was compared: the baseline has {_listed(comparison.rows_of_baseline)}, the "
            f"candidate has {_listed(comparison.rows_of_candidate)}."
        )
    for one in result.scorers.values():
        yield from _notes_on(one, comparison.options.failure_score)


def _notes_on(one: ScorerComparison, failure_score: float | None) -> Iterator[str]:
    if one.n_paired < FEW_PAIRS:
        yield f"{one.scorer} has {one.n_paired} pairs, which are too few for a reliable result."
    if one.baseline_errors or one.candidate_errors:
        treated = "are left out" if failure_score is None else f"count as {failure_score:g}"
        yield (
            f"{one.scorer} has errors for {one.baseline_errors} examples of the baseline and "
            f"{one.candidate_errors} of the candidate, which {treated}."
        )


def _listed(rows: Sequence[EvaluationRow]) -> str:
    return ", ".join(sorted(_metrics(rows))) or "none"


def _log(client: Any, result: EvaluationComparison) -> None:
    """Write the statistics to the run of the candidate, under the names that MLflow uses."""
    entities: Any = importlib.import_module("mlflow.entities")
    now = int(time.time() * 1000)
    key = f"compare/{result.baseline_run_id[:_SHORT_ID]}"
    # A metric has precedence over a measure with the same name.
    compared = {**result.measures, **result.scorers}
    metrics = [
        entities.Metric(f"{key}/{_in_name(name)}/{statistic}", float(value), now, 0)
        for name, one in compared.items()
        for statistic in _LOGGED
        if (value := getattr(one, statistic)) is not None and math.isfinite(value)
    ]
    client.log_batch(result.candidate_run_id, metrics=metrics)
    # The names have the beginning of the id only.
    client.log_dict(
        result.candidate_run_id, {"baseline_run_id": result.baseline_run_id}, f"{key}.json"
    )


def _in_name(text: str) -> str:
    return _NOT_IN_NAMES.sub("_", text)[:_MAX_NAME]
