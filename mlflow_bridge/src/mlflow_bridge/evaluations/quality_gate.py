# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A quality gate: whether the metrics of a run meet criteria."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlflow_bridge.evaluations.quality_criteria import (
    CRITERIA_TAG,
    Condition,
    criteria_tag,
    parse_criteria,
)
from mlflow_bridge.evaluations.run_lookup import run_lookup

logger = logging.getLogger(__name__)

_CALLER: Final = "check_quality"
_FIGURES: Final = frozenset({"score", "errors", "traces", "best_score", "trials"})
"""Figures of a whole run, which a metric function with the same name does not hide."""

_NOT_IN_NAMES: Final = re.compile(r"[^\w\-. /:]")
_ENDED_BADLY: Final = ("FAILED", "KILLED")


@dataclass(frozen=True, slots=True)
class CriterionResult:
    """One condition of the criteria, and what the run has."""

    criterion: str
    """The condition, such as ``correctness >= 0.9``."""
    metric: str
    """Name of the metric of the run, such as ``correctness/mean``."""
    value: float | None
    """The value; None if the run has no such metric."""
    met: bool
    """Whether the run has the metric, and its value meets the condition."""

    def __str__(self) -> str:
        verdict = "met" if self.met else "not met"
        shown = "missing" if self.value is None else f"{self.value:g}"
        return f"{verdict}: {self.criterion} ({self.metric} is {shown})"


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Whether a run meets quality criteria, by `check_quality`."""

    run_id: str
    """The run."""
    run_name: str
    """Its name."""
    run_status: str
    """Its status in MLflow. A run that is FAILED or KILLED meets no criteria."""
    results: Sequence[CriterionResult]
    """One result for each condition."""

    @property
    def met(self) -> bool:
        """Whether all conditions are met, and the run has not failed."""
        return self.run_status not in _ENDED_BADLY and all(one.met for one in self.results)

    @property
    def exit_code(self) -> int:
        """0 if the criteria are met, 1 if not: the exit code of ``mlflow-bridge gate``."""
        return 0 if self.met else 1

    def __str__(self) -> str:
        head = f"{self.run_name} ({self.run_id}, {self.run_status})"
        verdict = "meets the criteria" if self.met else "does not meet the criteria"
        return "\n".join([f"{head} {verdict}", *(f"  {one}" for one in self.results)])


def check_quality(
    run: str,
    criteria: str,
    *,
    set_tag: bool = True,
    tracking_uri: str | None = None,
    experiment: str | None = None,
) -> QualityReport:
    """Check whether the metrics of a run meet criteria in MLflow's syntax.

    A name is that of a metric of the evaluation, whose mean is meant: ``correctness`` is
    ``correctness/mean``. ``score``, ``errors``, ``traces``, and names in backticks such as
    ```latency/p90``` are metrics of the run. A metric that the run does not have, or that is NaN,
    does not meet a condition. The operators are ``>= > <= < == !=``, and ``AND`` joins conditions.

    Args:
        run: Id or name of the run.
        criteria: Such as ``"correctness >= 0.9 AND `latency/p90` <= 2"``.
        set_tag: Write the criteria to the tag of the run from which MLflow's page of evaluations
            shows them. Criteria that the page does not know are not written: other operators than
            ``>=`` and ``<=``, or two conditions on a metric.
        tracking_uri: Where the run is; by default that of `autolog`, or the configured one.
        experiment: Name or id of the experiment in which the name is looked up; by default that of
            `autolog`, or the configured one.

    Raises:
        ConfigurationError: The criteria are not of this form, the run is not found, or MLflow is
            not installed.

    Example:
        >>> report = check_quality("few-shot", "score >= 80")  # doctest: +SKIP
        >>> sys.exit(report.exit_code)  # doctest: +SKIP
    """
    conditions = parse_criteria(criteria)
    lookup = run_lookup(_CALLER, tracking_uri, experiment)
    found = lookup.run("run", run)
    metrics: Mapping[str, float] = found.data.metrics
    keys = [_metric_of(condition.name, metrics) for condition in conditions]
    if set_tag:
        _set_tag(lookup.client, found.info.run_id, criteria_tag(conditions, keys))
    return QualityReport(
        run_id=found.info.run_id,
        run_name=str(found.info.run_name),
        run_status=str(found.info.status),
        results=tuple(
            _result(condition, key, metrics.get(key))
            for condition, key in zip(conditions, keys, strict=True)
        ),
    )


def _metric_of(name: str, metrics: Mapping[str, float]) -> str:
    """The metric of the run that a name in criteria means."""
    # The name of a metric function as it stands in names of the run's metrics.
    cleaned = _NOT_IN_NAMES.sub("_", name)
    mean = f"{cleaned}/mean"
    if mean in metrics and cleaned not in _FIGURES:
        return mean
    if cleaned in metrics or cleaned in _FIGURES or "/" in cleaned:
        return cleaned
    return mean


def _result(condition: Condition, key: str, value: float | None) -> CriterionResult:
    met = value is not None and condition.holds(value)
    return CriterionResult(str(condition), key, value, met)


def _set_tag(client: Any, run_id: str, value: str | None) -> None:
    if value is None:
        logger.info("MLflow's page of evaluations cannot show these criteria; no tag is set.")
        return
    try:
        client.set_tag(run_id, CRITERIA_TAG, value)
    except Exception as error:
        # The gate may run with the right to read alone.
        logger.warning("The criteria are not written to the run %s: %s", run_id, error)
