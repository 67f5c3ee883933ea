# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions that the program has to get although they were raised inside telemetry.

A signal handler of Python runs between any two instructions of the main thread, and may raise: the
soft time limit of a task queue, for example. Telemetry may neither keep such an exception nor stop
half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from opentelemetry.instrumentation.dspy.api import raised_by_signal

_MAX_REPETITIONS: Final = 1000
"""More interruptions than that mean that the handler raises all the time."""


def belongs_to_program(error: BaseException) -> bool:
    """Whether an exception is no mistake of telemetry, so that it has to go on to the program.

    Args:
        error: An exception that was caught around code of telemetry, on a thread of the program.

    Returns:
        True for an exception that a signal handler has raised, and for exceptions such as
        `KeyboardInterrupt` and `SystemExit`.
    """
    return not isinstance(error, Exception) or raised_by_signal(error)


def complete(step: Callable[[], object]) -> None:
    """Repeat a step until no signal handler interrupts it.

    Args:
        step: Finishes what an interrupted call has begun; a repetition does no harm.
    """
    for _ in range(_MAX_REPETITIONS):
        try:
            step()
            return
        except BaseException as error:
            # The program gets the first exception, as if the signals had come at once.
            if not belongs_to_program(error):
                raise
