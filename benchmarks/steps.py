# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Exact counts of bytecode instructions and of calls of C functions.

For a given Python and given releases of OpenTelemetry and DSPy, both counts are the same on any
machine, however busy. Work inside of a C call is not counted.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_WARM_UP = 12
"""Calls before the count: they fill caches, and the interpreter adapts its code."""


def count_steps(run: Callable[[], Any], calls: int = 2) -> float:
    """Count the bytecode instructions and C calls of one call of a function, in this thread.

    Returns the smallest count of several calls: a call may include other work, such as the
    callbacks of a garbage collection.
    """
    for _ in range(_WARM_UP):
        run()
    gc.collect()
    gc.disable()
    try:
        return min(_instructions(run) + _c_calls(run) for _ in range(calls))
    finally:
        gc.enable()


def _instructions(run: Callable[[], Any]) -> int:
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
        elif event == "opcode":
            count += 1
        return trace

    here = inspect.currentframe()
    assert here is not None
    # Python 3.12 checks only when tracing begins whether a frame wants these events.
    here.f_trace_opcodes = True
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def _c_calls(run: Callable[[], Any]) -> int:
    count = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event == "c_call":
            count += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count
