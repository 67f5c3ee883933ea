# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Exceptions that the program has to get although they were raised inside telemetry.

A signal handler of Python runs between any two instructions of the main thread, and may raise: the
soft time limit of a task queue, for example. Telemetry may neither keep such an exception nor stop
half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import FrameType, TracebackType
from typing import Any, Final

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


def raised_by_signal(error: BaseException) -> bool:
    """Whether a signal handler raised an exception on top of the code that it interrupted.

    The interpreter calls a handler with the number of the signal and the interrupted frame. No
    other call has an integer and then the frame of its own caller as arguments.
    """
    entry: TracebackType | None = error.__traceback__
    while entry is not None:
        if _is_handler(entry.tb_frame):
            return True
        entry = entry.tb_next
    return False


def _is_handler(frame: FrameType) -> bool:
    code, caller = frame.f_code, frame.f_back
    if caller is None:
        return False
    # The names of the arguments, with the one of *args; other variables are not looked at.
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 1]
    values: list[Any] = [frame.f_locals.get(name) for name in names]
    groups: list[Any] = [values, *(value for value in values if type(value) is tuple)]
    return any(
        second is caller and isinstance(first, int)
        for group in groups
        for first, second in pairwise(group)
    )


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
