# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A sampling profiler of CPU time.

A profiler that is called at each call makes calls look expensive; a sampling profiler costs next to
nothing. CPU time of C code counts for the Python function that called it.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

_INTERVAL = 0.001
"""Seconds of CPU between two samples."""

Group = tuple[str, str]
"""A name, and a part of the path of the files that belong to it."""


def profile(run: Callable[[], Any], seconds: float, groups: Sequence[Group]) -> dict[str, float]:
    """Run repeatedly for about this CPU time. Returns the share of each group.

    Main thread only. A stack belongs to the group of its innermost frame that is in a group. If
    several groups match a file, the first group counts. Stacks without a group count as ``other``.
    """
    seen: Counter[str] = Counter()

    def look(number: int, frame: FrameType | None) -> None:
        seen[_group_of(frame, groups)] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)
    try:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    total = max(sum(seen.values()), 1)
    return {name: count / total for name, count in seen.most_common()}


def _group_of(frame: FrameType | None, groups: Sequence[Group]) -> str:
    while frame is not None:
        file = frame.f_code.co_filename
        for name, part in groups:
            if part in file:
                return name
        frame = frame.f_back
    return "other"
