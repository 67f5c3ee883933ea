# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The counts of steps that the guard checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.guard import PROGRAMS, limits, ratios
from benchmarks.processes import apart
from benchmarks.scale import Scale
from benchmarks.tables import Table, times

NAME = "steps"
_PROCESSORS = "processors"


def run(scale: Scale) -> dict[str, Any]:
    """Count bytecode instructions and C calls of programs and processors, at every scale."""
    counts = apart("benchmarks.counted:counted", PROGRAMS)
    return {**counts, _PROCESSORS: apart("benchmarks.delivery.steps:processor_steps")}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """A table of ratios and limits."""
    found = ratios(data, data[_PROCESSORS])
    rows = [
        [name, times(value), times(limits()[name])]
        for name, value in found.items()
        if name in limits() and not name.startswith("sampled")
    ]
    below = "sampled out, steps for each operation"
    rows.append(["steps below an unsampled root", f"{found[below]:.0f}", f"{limits()[below]:.0f}"])
    return [
        Table(
            "steps",
            "What the guard counts: bytecode instructions and C calls",
            ["", "added / floor", "limit"],
            rows,
        )
    ]
