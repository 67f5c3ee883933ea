# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tests of paired values by SciPy, with the choices of MLflow's ``compare_evaluations``.

The same values give the same numbers as in MLflow 3.18, so that a comparison does not depend on the
version of MLflow.
"""

from __future__ import annotations

import importlib
import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any, Final

from mlflow_bridge.evaluations.comparison_result import Method, ScorerComparison

MIN_PAIRS: Final = 6
"""With fewer pairs, no p-value of the exact signed-rank test can be below 0.05."""

FEW_PAIRS: Final = 10
"""With fewer pairs, the tests hardly ever find a difference."""

# The approximations are good from here on; the exact tests are slow there.
_MCNEMAR_EXACT_BELOW: Final = 25
_WILCOXON_EXACT_UP_TO: Final = 50
_RESAMPLES: Final = 10_000
# Bounds the memory: resamples times pairs that are in memory at a time.
_BATCH_VALUES: Final = 1_000_000
_SAME_RELATIVE: Final = 1e-9
_SAME_ABSOLUTE: Final = 1e-12


def compare_values(
    scorer: str,
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    pass_fail: bool,
    greater_is_better: bool,
    confidence_level: float,
    seed: int,
) -> ScorerComparison:
    """The comparison of paired values.

    Args:
        scorer: Name of the metric.
        baseline: Finite values of the baseline.
        candidate: The values of the candidate, in the order of their partners.
        pass_fail: Whether all of them are truth values.
        greater_is_better: Whether a higher value is better.
        confidence_level: Level of the confidence interval, between 0 and 1.
        seed: Seed of the bootstrap.

    Raises:
        ImportError: NumPy or SciPy is not installed.
    """
    if len(baseline) < MIN_PAIRS:
        return ScorerComparison(scorer, "insufficient_pairs", len(baseline), greater_is_better)
    numpy: Any = importlib.import_module("numpy")
    before, after = numpy.asarray(baseline, dtype=float), numpy.asarray(candidate, dtype=float)
    deltas = after - before
    diff = float(deltas.mean())
    nonzero = int(numpy.count_nonzero(deltas))
    # Differences that differ by rounding alone have no variance.
    same = bool(numpy.allclose(deltas, deltas[0], rtol=_SAME_RELATIVE, atol=_SAME_ABSOLUTE))
    low, high = (diff, diff) if same else _interval_of_mean(deltas, confidence_level, seed)
    if bool(numpy.isin(numpy.concatenate([before, after]), (0.0, 1.0)).all()):
        (method, p_value), t_test = _mcnemar(deltas), None
    else:
        (method, p_value), t_test = _wilcoxon(deltas), _t_test(before, after, same, nonzero)
    return ScorerComparison(
        scorer=scorer,
        status="ok",
        n_paired=len(deltas),
        greater_is_better=greater_is_better,
        value_type="binary" if pass_fail else "numeric",
        method=method,
        baseline_mean=float(before.mean()),
        candidate_mean=float(after.mean()),
        diff=diff,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        t_test_p_value=t_test,
        effect_size=math.nan if same else diff / float(deltas.std(ddof=1)),
        ties=len(deltas) - nonzero,
        n_nonzero=nonzero,
    )


def _interval_of_mean(deltas: Any, confidence_level: float, seed: int) -> tuple[float, float]:
    """The BCa interval of the mean; the percentile interval if BCa is not defined."""
    low, high = _bootstrap(deltas, "BCa", confidence_level, seed)
    if math.isfinite(low) and math.isfinite(high):
        return low, high
    return _bootstrap(deltas, "percentile", confidence_level, seed)


def _bootstrap(deltas: Any, method: str, confidence_level: float, seed: int) -> tuple[float, float]:
    numpy: Any = importlib.import_module("numpy")
    stats: Any = importlib.import_module("scipy.stats")
    # SciPy 1.15 has another name for it.
    named = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    with warnings.catch_warnings():
        # An interval that is not defined has another one in its place.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            (deltas,),
            numpy.mean,
            method=method,
            confidence_level=confidence_level,
            n_resamples=_RESAMPLES,
            batch=max(_BATCH_VALUES // len(deltas), 1),
            **{named: numpy.random.default_rng(seed)},
        ).confidence_interval
    return float(found.low), float(found.high)


def _mcnemar(deltas: Any) -> tuple[Method, float]:
    """McNemar's test: binomial, or with many pairs chi-square with continuity correction."""
    better, worse = int((deltas > 0).sum()), int((deltas < 0).sum())
    different = better + worse
    if not different:
        return "mcnemar_exact", 1.0
    stats: Any = importlib.import_module("scipy.stats")
    if different < _MCNEMAR_EXACT_BELOW:
        return "mcnemar_exact", float(stats.binomtest(better, different, 0.5).pvalue)
    statistic = (abs(better - worse) - 1) ** 2 / different
    return "mcnemar_chi2", float(stats.chi2.sf(statistic, df=1))


def _wilcoxon(deltas: Any) -> tuple[Method, float]:
    """The signed-rank test, without pairs of equal values."""
    nonzero = deltas[deltas != 0]
    # Chosen here: SciPy's own choice differs between its versions.
    is_exact = len(nonzero) <= _WILCOXON_EXACT_UP_TO
    method: Method = "wilcoxon_exact" if is_exact else "wilcoxon_asymptotic"
    if not len(nonzero):
        return method, 1.0
    stats: Any = importlib.import_module("scipy.stats")
    # "approx" is the name that all versions of SciPy accept.
    found = stats.wilcoxon(nonzero, method="exact" if is_exact else "approx")
    return method, float(found.pvalue)


def _t_test(before: Any, after: Any, same: bool, nonzero: int) -> float:
    if same:
        return math.nan if nonzero else 1.0
    stats: Any = importlib.import_module("scipy.stats")
    return float(stats.ttest_rel(after, before).pvalue)
