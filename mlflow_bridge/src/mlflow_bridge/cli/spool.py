# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""List the spools of this user, and deliver their spans to MLflow."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._delivery.spool.deliver import deliver_spool
from mlflow_bridge._delivery.spool.directory import (
    default_directory,
    destination_of,
    files_in,
    files_set_aside,
    spool_problem,
)
from mlflow_bridge._delivery.spool.segment import SUFFIX
from mlflow_bridge._process.outside_text import outside_text

_ALL_IN_MLFLOW: Final = 0
_SOMETHING_MISSING: Final = 1
_WRONG_USE: Final = 2
_MAX_LINE: Final = 8192


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Returns:
        0 if no spans are left or lost, 1 if some are, 2 for wrong usage or an error.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        return options.run(options)
    except (ConfigurationError, OSError, RuntimeError) as error:
        print(f"error: {outside_text(error, limit=_MAX_LINE)}", file=sys.stderr)
        return _WRONG_USE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlflow-bridge spool", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shown = commands.add_parser("list", help="show every spool and its destination")
    shown.add_argument("directory", nargs="?", type=Path, help="directory of the spools")
    shown.set_defaults(run=_list)
    delivered = commands.add_parser(
        "deliver", help="deliver one spool to the destination set in the environment"
    )
    delivered.add_argument("directory", nargs="?", type=Path, help="default: the destination's")
    delivered.add_argument("--tracking-uri", help="instead of MLFLOW_TRACKING_URI")
    delivered.add_argument("--experiment-name", help="instead of MLFLOW_EXPERIMENT_NAME")
    delivered.add_argument("--timeout", type=float, metavar="SECONDS", help="stop after this time")
    delivered.set_defaults(run=_deliver)
    return parser


def _list(options: argparse.Namespace) -> int:
    base: Path = options.directory or MLflowDSPyConfig().spool_directory or default_directory()
    base = base.expanduser()
    candidates = [base, *(sorted(base.iterdir()) if base.is_dir() else [])]
    spools = [path for path in candidates if files_in(path)]
    aside = [file.path for path in candidates for file in files_set_aside(path)]
    for path in spools:
        files = files_in(path)
        size = sum(file.bytes for file in files)
        age = max(time.time() - min(file.begun for file in files), 0.0)
        _show(str(path))
        _show(f"  for {destination_of(path) or 'an unknown destination'}")
        _show(f"  {len(files)} files, {size} bytes, begun {age:.0f} s ago")
    for file in aside:
        _show(str(file))
        _show("  could not be delivered, and was set aside")
    closed = [problem for path in candidates if (problem := _problem_of(path))]
    for problem in closed:
        _show(f"Left out: {problem}")
    if not spools and not aside and not closed:
        _show(f"Nothing is in {base}.")
    return _SOMETHING_MISSING if spools or aside or closed else _ALL_IN_MLFLOW


def _problem_of(path: Path) -> str | None:
    """Why the files of a directory are not listed; None if they are, or if it has no such file."""
    problem = spool_problem(path) if path.is_dir() else None
    return problem if problem and any(path.glob("*" + SUFFIX)) else None


def _show(line: str) -> None:
    """Print a line that may have names of files, and texts in them, that other programs chose."""
    print(outside_text(line, limit=_MAX_LINE))


def _deliver(options: argparse.Namespace) -> int:
    given: dict[str, Any] = {
        name: value
        for name in ("tracking_uri", "experiment_name")
        if (value := getattr(options, name)) is not None
    }
    config = MLflowDSPyConfig(**given)
    done = deliver_spool(options.directory, config=config, timeout_seconds=options.timeout)
    _show(f"{done.stored} spans of {done.directory} are now in {config.destination_description}.")
    if done.filtered:
        _show(f"{done.filtered} spans are left out: no span of their traces is of DSPy or GenAI.")
    if done.lost:
        _show(f"{done.lost} spans are lost.")
    if done.left_files:
        _show(f"{done.left_files} files ({done.left_bytes} bytes) are left: {done.reason}.")
    return _ALL_IN_MLFLOW if done.complete else _SOMETHING_MISSING
