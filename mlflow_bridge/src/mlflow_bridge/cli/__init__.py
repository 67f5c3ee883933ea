# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The command ``mlflow-bridge``, in other words ``python -m mlflow_bridge``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final

_HELP: Final = {
    "doctor": "check what stands between a program with these settings and MLflow",
    "spool": "see which spans wait on disk, and deliver them",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Its name and its arguments; by default those of the process.

    Returns:
        The exit code: 0 for success, 1 if something is wrong or missing, 2 for wrong usage.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="mlflow-bridge", description="Operate mlflow-bridge.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, text in _HELP.items():
        commands.add_parser(name, help=text, add_help=False)
    command: str = parser.parse_args(given[:1]).command
    return _command(command)(given[1:])


def _command(name: str) -> Callable[[Sequence[str]], int]:
    # Either one imports much that the other does not need.
    if name == "doctor":
        from mlflow_bridge.cli.doctor import main as doctor

        return doctor
    from mlflow_bridge.cli.spool import main as spool

    return spool
