# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Check whether the metrics of a run meet quality criteria; exit code 1 if they do not."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import orjson

from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge.evaluations.quality_gate import QualityReport, check_quality

_WRONG_USE: Final = 2
_MAX_LINE: Final = 8192


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Returns:
        0 if the criteria are met, 1 if they are not, 2 for wrong usage or an error.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        report = check_quality(
            options.run,
            options.criteria,
            set_tag=not options.no_tag,
            tracking_uri=options.tracking_uri,
            experiment=options.experiment_name,
        )
    except Exception as error:  # 1 would mean that the criteria are not met
        print(f"error: {outside_text(error, limit=_MAX_LINE)}", file=sys.stderr)
        return _WRONG_USE
    _print_json(report) if options.json else _print_lines(report)
    return report.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlflow-bridge gate", description=__doc__)
    parser.add_argument("run", help="id or name of the run")
    parser.add_argument(
        "criteria", help="such as 'correctness >= 0.9 AND `latency/p90` <= 2', in single quotes"
    )
    parser.add_argument(
        "--no-tag", action="store_true", help="do not write the criteria to the run"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tracking-uri", help="instead of MLFLOW_TRACKING_URI")
    parser.add_argument("--experiment-name", help="instead of MLFLOW_EXPERIMENT_NAME")
    return parser


def _print_lines(report: QualityReport) -> None:
    for line in str(report).splitlines():
        print(outside_text(line, limit=_MAX_LINE))


def _print_json(report: QualityReport) -> None:
    # orjson writes null for numbers that JSON does not have.
    print(orjson.dumps({**asdict(report), "met": report.met}).decode())
