# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of paired values, against SciPy itself and against numbers computed by hand."""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Sequence
from typing import Any

import pytest

from mlflow_bridge import ScorerComparison
from mlflow_bridge.evaluations.paired_statistics import compare_values

numpy: Any = pytest.importorskip("numpy")
pytest.importorskip("scipy")


def compared(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    pass_fail: bool = False,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> ScorerComparison:
    return compare_values(
        "graded",
        baseline,
        candidate,
        pass_fail=pass_fail,
        greater_is_better=True,
        confidence_level=confidence_level,
        seed=seed,
    )


def outcomes(better: int, worse: int, same: int) -> tuple[list[float], list[float]]:
    baseline = [0.0] * better + [1.0] * worse + [1.0] * same
    candidate = [1.0] * better + [0.0] * worse + [1.0] * same
    return baseline, candidate


def test_truth_values_have_the_exact_test_of_mcnemar() -> None:
    found = compared(*outcomes(8, 0, 2), pass_fail=True)
    assert found.method == "mcnemar_exact"
    assert found.value_type == "binary"
    assert found.p_value == pytest.approx(2 * 0.5**8)
    assert (found.n_paired, found.ties, found.n_nonzero) == (10, 2, 8)
    assert (found.baseline_mean, found.candidate_mean) == (0.2, 1.0)
    assert found.diff == pytest.approx(0.8)
    assert found.t_test_p_value is None


@pytest.mark.parametrize(
    ("better", "worse", "method"),
    [(20, 4, "mcnemar_exact"), (20, 5, "mcnemar_chi2"), (30, 10, "mcnemar_chi2")],
)
def test_many_truth_values_have_the_chi_square_test(better: int, worse: int, method: str) -> None:
    found = compared(*outcomes(better, worse, 3))
    assert found.method == method
    number = better + worse
    if method == "mcnemar_chi2":
        statistic = (abs(better - worse) - 1) ** 2 / number
        expected = math.erfc(math.sqrt(statistic / 2))
    else:
        tail = sum(math.comb(number, k) for k in range(worse + 1))
        expected = 2 * tail / 2**number
    assert found.p_value == pytest.approx(expected)


def test_numbers_have_the_signed_rank_test() -> None:
    found = compared([0.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert found.method == "wilcoxon_exact"
    assert found.value_type == "numeric"
    assert found.p_value == pytest.approx(2 / 2**6)
    assert found.diff == 3.5
    assert found.effect_size == pytest.approx(3.5 / math.sqrt(3.5))


@pytest.mark.parametrize("number", [12, 50, 51, 200])
def test_numbers_equal_those_of_scipy(number: int) -> None:
    stats: Any = importlib.import_module("scipy.stats")
    rng = random.Random(number)
    baseline = [rng.random() for _ in range(number)]
    candidate = [min(value + rng.gauss(0.05, 0.2), 1.0) for value in baseline]
    deltas = numpy.asarray(candidate) - numpy.asarray(baseline)
    found = compared(baseline, candidate, confidence_level=0.9, seed=3)
    method = "exact" if number <= 50 else "asymptotic"
    assert found.method == f"wilcoxon_{method}"
    assert found.p_value == pytest.approx(stats.wilcoxon(deltas, method=method).pvalue)
    assert found.t_test_p_value == pytest.approx(stats.ttest_rel(candidate, baseline).pvalue)
    interval = stats.bootstrap(
        (deltas,),
        numpy.mean,
        confidence_level=0.9,
        n_resamples=10_000,
        method="BCa",
        rng=numpy.random.default_rng(3),
    ).confidence_interval
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))
    assert found.effect_size == pytest.approx(deltas.mean() / deltas.std(ddof=1))


def test_the_interval_follows_from_the_seed() -> None:
    baseline, candidate = [0.1 * index for index in range(20)], [0.2] * 20
    first = compared(baseline, candidate, seed=1)
    assert compared(baseline, candidate, seed=1) == first
    assert compared(baseline, candidate, seed=2).ci_low != first.ci_low
    assert compared(baseline, candidate, seed=2).p_value == first.p_value


@pytest.mark.parametrize("number", [0, 1, 5])
def test_few_pairs_have_no_statistics(number: int) -> None:
    found = compared([0.0] * number, [1.0] * number)
    assert found.status == "insufficient_pairs"
    assert found.n_paired == number
    assert found.p_value is found.diff is found.ci_low is None
    assert not found.is_improved()
    assert not found.is_worse()


@pytest.mark.parametrize("value", [1.0, 0.3])
def test_equal_values_are_no_difference(value: float) -> None:
    found = compared([value] * 8, [value] * 8)
    assert found.p_value == 1.0
    assert (found.diff, found.ci_low, found.ci_high) == (0.0, 0.0, 0.0)
    assert (found.ties, found.n_nonzero) == (8, 0)
    assert found.effect_size is not None
    assert math.isnan(found.effect_size)
    assert found.t_test_p_value == (None if value == 1.0 else 1.0)


def test_the_same_difference_everywhere_has_no_variance() -> None:
    baseline = [0.1 * index for index in range(8)]
    found = compared(baseline, [value + 0.1 for value in baseline])
    assert found.diff == pytest.approx(0.1)
    assert found.ci_low == found.ci_high == found.diff
    assert found.p_value == pytest.approx(2 / 2**8)
    assert found.t_test_p_value is not None
    assert math.isnan(found.t_test_p_value)
    assert found.effect_size is not None
    assert math.isnan(found.effect_size)
    assert found.is_improved()
