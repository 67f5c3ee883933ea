# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``mlflow-bridge``, also ``python -m mlflow_bridge``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final

_HELP: Final = {
    "compare": "compare two evaluations of the same examples",
    "doctor": "check whether a program with these settings can deliver traces to MLflow",
    "gate": "check whether the metrics of a run meet quality criteria",
    "spool": "list the spans that wait on disk, and deliver them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Name of the command and its arguments. Default: the arguments of the process.

    Returns:
        The exit code: 0 for success; 1 if a check failed, criteria are not met, or spans are left
        or lost; 2 for wrong usage or an error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="mlflow-bridge", description="Operate mlflow-bridge.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text in _HELP.items():
        commands.add_parser(name, help=text, add_help=False)
    command: str = parser.parse_args(given[:1]).command
    return _command(command)(given[1:])


def _command(name: str) -> Callable[[Sequence[str]], int]:
    # Imported here, because each command imports much that the other commands do not need.
    return importlib.import_module(f"mlflow_bridge.cli.{name}").main
