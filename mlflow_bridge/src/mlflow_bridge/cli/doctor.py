# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``mlflow-bridge doctor``: print the report; exit code 1 if a check failed."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from mlflow_bridge._setup.doctor import DoctorReport
from mlflow_bridge._setup.doctor.checks import examine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 if a check failed."""
    parser = argparse.ArgumentParser(
        prog="mlflow-bridge doctor",
        description="Check whether a program with these settings can deliver traces to MLflow.",
    )
    parser.add_argument("--tracking-uri", help="instead of MLFLOW_TRACKING_URI")
    parser.add_argument("--experiment-name", help="instead of MLFLOW_EXPERIMENT_NAME")
    parser.add_argument(
        "--offline", action="store_true", help="do not connect to the store or server"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    report = DoctorReport(
        tuple(
            examine(
                options.tracking_uri,
                options.experiment_name,
                None,
                send=not options.offline,
                in_program=False,
            )
        )
    )
    print(report)
    return int(report.state == "fail")
