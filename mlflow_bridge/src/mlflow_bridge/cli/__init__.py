# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``mlflow-bridge``, also ``python -m mlflow_bridge``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final

_HELP: Final = {
    "doctor": "check whether a program with these settings can deliver traces to MLflow",
    "spool": "list the spans that wait on disk, and deliver them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Name of the command and its arguments. Default: the arguments of the process.

    Returns:
        The exit code: 0 for success; 1 if a check failed, or spans are left or lost; 2 for wrong
        usage.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="mlflow-bridge", description="Operate mlflow-bridge.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text in _HELP.items():
        commands.add_parser(name, help=text, add_help=False)
    command: str = parser.parse_args(given[:1]).command
    return _command(command)(given[1:])


def _command(name: str) -> Callable[[Sequence[str]], int]:
    # Imported here, because each command imports much that the other command does not need.
    if name == "doctor":
        from mlflow_bridge.cli.doctor import main as doctor

        return doctor
    from mlflow_bridge.cli.spool import main as spool

    return spool
