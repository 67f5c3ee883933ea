# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The result of a comparison of two evaluations, with the field names of MLflow's own result."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal

Method = Literal["mcnemar_exact", "mcnemar_chi2", "wilcoxon_exact", "wilcoxon_asymptotic"]

_ALPHA: Final = 0.05


@dataclass(frozen=True)
class ScorerComparison:
    """A metric, or a measure such as the latency, over the pairs of examples of two evaluations.

    The fields up to ``n_nonzero`` have the names and values of MLflow's ``ScorerComparison``. With
    fewer than six pairs, the statistics are None.
    """

    scorer: str
    """Name of the metric."""
    status: Literal["ok", "insufficient_pairs"]
    """``insufficient_pairs`` if fewer than six pairs have a value on both sides."""
    n_paired: int
    """Number of pairs with a value on both sides."""
    greater_is_better: bool = True
    """Whether a higher value is better."""
    value_type: Literal["binary", "numeric"] | None = None
    """``binary`` if every value is a truth value or yes or no."""
    method: Method | None = None
    """The test of ``p_value``: McNemar's if all values are 0 or 1, else the signed-rank test of
    Wilcoxon."""
    baseline_mean: float | None = None
    """Mean of the baseline over the pairs."""
    candidate_mean: float | None = None
    """Mean of the candidate over the pairs."""
    diff: float | None = None
    """Mean difference, candidate minus baseline."""
    ci_low: float | None = None
    """Lower bound of the confidence interval of ``diff`` (BCa bootstrap)."""
    ci_high: float | None = None
    """Upper bound of the confidence interval of ``diff``."""
    p_value: float | None = None
    """Two-sided p-value of ``method``."""
    t_test_p_value: float | None = None
    """Two-sided p-value of the paired t-test; None with McNemar's test, NaN if all differences are
    the same and not zero."""
    effect_size: float | None = None
    """Cohen's d_z; NaN if all differences are the same."""
    ties: int | None = None
    """Number of pairs with equal values."""
    n_nonzero: int | None = None
    """Number of pairs with different values, on which the test is computed."""
    baseline_errors: int = 0
    """Examples of the baseline that failed, so that they have an error in place of a value."""
    candidate_errors: int = 0
    """Examples of the candidate that failed."""

    def is_improved(self, alpha: float = _ALPHA) -> bool:
        """Whether the candidate is better, with a p-value below ``alpha``."""
        return self._moved(1, alpha)

    def is_worse(self, alpha: float = _ALPHA) -> bool:
        """Whether the candidate is worse, with a p-value below ``alpha``."""
        return self._moved(-1, alpha)

    def _moved(self, direction: int, alpha: float) -> bool:
        if self.status != "ok" or self.diff is None or self.p_value is None:
            return False
        better = direction if self.greater_is_better else -direction
        return better * self.diff > 0 and self.p_value < alpha


MLFLOWS_FIELDS: Final = tuple(
    one.name for one in fields(ScorerComparison) if not one.name.endswith("_errors")
)
"""The fields that MLflow's own result has as well."""


@dataclass(frozen=True)
class EvaluationComparison:
    """The comparison of two evaluations of the same examples, by `compare_evaluations`.

    The fields up to ``unpaired_candidate_trace_ids`` have the names of MLflow's
    ``ComparisonResult``.
    """

    candidate_run_id: str
    """Run of the candidate."""
    baseline_run_id: str
    """Run of the baseline."""
    scorers: Mapping[str, ScorerComparison]
    """The comparison of each metric that both runs have, by its name."""
    paired_rows: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    """For each pair of examples: ``baseline_trace_id``, ``candidate_trace_id``, ``paired_on``
    (``eval_request_id`` or ``inputs_hash``), and ``scores``: ``baseline``, ``candidate`` and
    ``delta`` by metric."""
    unpaired_baseline_trace_ids: Sequence[str] = ()
    """Traces of the baseline without a partner."""
    unpaired_candidate_trace_ids: Sequence[str] = ()
    """Traces of the candidate without a partner."""
    measures: Mapping[str, ScorerComparison] = field(default_factory=dict[str, ScorerComparison])
    """``latency`` in seconds, ``tokens`` and ``cost`` in US dollars of each example, as far as the
    traces have them; lower is better."""
    engine: Literal["mlflow", "scipy"] = "scipy"
    """What computed ``scorers``: MLflow's own function, or SciPy's tests in the same way."""
    notes: Sequence[str] = ()
    """What to know before the figures are trusted, one sentence each."""

    def summary(self) -> Any:
        """A pandas ``DataFrame`` with a row for each metric, then a row for each measure."""
        rows = [asdict(one) for one in (*self.scorers.values(), *self.measures.values())]
        columns = [one.name for one in fields(ScorerComparison)]
        return importlib.import_module("pandas").DataFrame(rows, columns=columns)

    def assert_improved(self, scorers: Sequence[str] | None = None, alpha: float = _ALPHA) -> None:
        """Raise unless each metric is better, with a p-value below ``alpha``.

        Args:
            scorers: Names of metrics or measures; by default all metrics.
            alpha: Level of significance.

        Raises:
            AssertionError: A metric is not better, or has fewer than six pairs, or no metric was
                compared.
            ConfigurationError: A name was not compared, or the list is empty.
        """
        failures = [one for one in self._chosen(scorers) if not one.is_improved(alpha)]
        self._raise_for(failures, "is not shown to be better than", alpha)

    def assert_not_worse(self, scorers: Sequence[str] | None = None, alpha: float = _ALPHA) -> None:
        """Raise if a metric is worse, with a p-value below ``alpha``, or could not be tested.

        Args:
            scorers: Names of metrics or measures; by default all metrics.
            alpha: Level of significance.

        Raises:
            AssertionError: A metric is worse, or has fewer than six pairs, or no metric was
                compared.
            ConfigurationError: A name was not compared, or the list is empty.
        """
        failures = [
            one for one in self._chosen(scorers) if one.status != "ok" or one.is_worse(alpha)
        ]
        self._raise_for(failures, "is worse than, or could not be compared with,", alpha)

    def _raise_for(self, failures: Sequence[ScorerComparison], what: str, alpha: float) -> None:
        if failures:
            lines = "".join(f"\n  - {_shown(failure)}" for failure in failures)
            raise AssertionError(
                f"The candidate run {self.candidate_run_id} {what} the baseline run "
                f"{self.baseline_run_id} (alpha={alpha:g}):{lines}"
            )

    def _chosen(self, names: Sequence[str] | None) -> list[ScorerComparison]:
        known = {**self.measures, **self.scorers}
        if names is None:
            if not self.scorers:
                raise AssertionError(
                    f"The runs {self.candidate_run_id} and {self.baseline_run_id} have no metric "
                    "in common, so nothing was compared"
                )
            return list(self.scorers.values())
        wanted = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            from mlflow_bridge._config.base import ConfigurationError

            raise ConfigurationError(
                f"scorers is {wanted!r}; accepted: names of what was compared ({', '.join(known)})"
            )
        return [known[name] for name in wanted]


def _shown(one: ScorerComparison) -> str:
    if one.status != "ok":
        return f"{one.scorer}: {one.status} (n_paired={one.n_paired})"
    return (
        f"{one.scorer}: diff={one.diff:+.4g} (greater_is_better={one.greater_is_better}), "
        f"p_value={one.p_value:.4g}, n_paired={one.n_paired}"
    )
