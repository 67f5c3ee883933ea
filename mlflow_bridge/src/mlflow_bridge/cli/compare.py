# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Compare two evaluations of the same examples; exit code 1 if the candidate does not hold."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import orjson

from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge.evaluations.comparison import compare_evaluations
from mlflow_bridge.evaluations.comparison_result import EvaluationComparison, ScorerComparison

_OK: Final = 0
_NOT_MET: Final = 1
_WRONG_USE: Final = 2
_MAX_LINE: Final = 8192
_COLUMNS: Final = ("baseline_mean", "candidate_mean", "diff", "ci_low", "ci_high", "p_value")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Returns:
        0 if the candidate holds, 1 if it does not, 2 for wrong usage or an error.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
    try:
        result = compare_evaluations(
            options.candidate,
            options.baseline,
            scorers=options.scorer or None,
            greater_is_better=dict.fromkeys(options.lower_is_better, False),
            failure_score=options.failure_score,
            confidence_level=options.confidence_level,
            seed=options.seed,
            log_results=options.log_results,
            tracking_uri=options.tracking_uri,
            experiment=options.experiment_name,
        )
        failure = _failure(result, options)
    except Exception as error:  # 1 would mean a candidate that does not hold
        print(f"error: {outside_text(error, limit=_MAX_LINE)}", file=sys.stderr)
        return _WRONG_USE
    _print_json(result, failure) if options.json else _print_table(result, failure)
    return _OK if failure is None else _NOT_MET


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlflow-bridge compare", description=__doc__)
    parser.add_argument("candidate", help="id or name of the run that may be better")
    parser.add_argument("baseline", help="id or name of the run to compare with")
    parser.add_argument(
        "--require",
        choices=("not-worse", "improved", "nothing"),
        default="not-worse",
        help="what each metric has to be for exit code 0 (default: not-worse)",
    )
    parser.add_argument(
        "--scorer", action="append", metavar="NAME", help="a metric (default: all); repeatable"
    )
    parser.add_argument(
        "--lower-is-better",
        action="append",
        default=[],
        metavar="NAME",
        help="a metric for which less is better; repeatable",
    )
    parser.add_argument(
        "--alpha", type=float, default=0.05, help="level of significance (default: 0.05)"
    )
    parser.add_argument(
        "--confidence-level", type=float, default=0.95, help="of the intervals (default: 0.95)"
    )
    parser.add_argument(
        "--failure-score",
        type=float,
        metavar="SCORE",
        help="score of an example that failed (default: left out)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: 0)")
    parser.add_argument(
        "--log-results", action="store_true", help="write the statistics to the candidate's run"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tracking-uri", help="instead of MLFLOW_TRACKING_URI")
    parser.add_argument("--experiment-name", help="instead of MLFLOW_EXPERIMENT_NAME")
    return parser


def _failure(result: EvaluationComparison, options: argparse.Namespace) -> str | None:
    """Why the candidate does not hold; None if it holds."""
    if options.require == "nothing":
        return None
    required = result.assert_not_worse
    if options.require == "improved":
        required = result.assert_improved
    try:
        required(None, options.alpha)
    except AssertionError as failure:
        return str(failure)
    return None


def _print_table(result: EvaluationComparison, failure: str | None) -> None:
    compared = [*result.scorers.values(), *result.measures.values()]
    rows = [("", "pairs", *_COLUMNS, "method"), *map(_row, compared)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    for note in result.notes:
        _show(f"Note: {note}")
    for line in (failure or "The candidate holds.").splitlines():
        _show(line)


def _row(one: ScorerComparison) -> tuple[str, ...]:
    figures = (_figure(getattr(one, column)) for column in _COLUMNS)
    return (outside_text(one.scorer), str(one.n_paired), *figures, one.method or one.status)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _show(line: str) -> None:
    """Print a line that may have names of runs and metrics, which other programs chose."""
    print(outside_text(line, limit=_MAX_LINE))


def _print_json(result: EvaluationComparison, failure: str | None) -> None:
    # orjson writes null for numbers that JSON does not have.
    print(orjson.dumps({**asdict(result), "holds": failure is None, "failure": failure}).decode())
