# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.guard`` fails if instrumentation became more expensive.

It counts the steps that the interpreter executes, which repeat exactly, and compares them with the
floor's steps. It reads no clock, so that a busy machine cannot change the result.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from benchmarks.processes import apart
from benchmarks.tables import Table, as_text, times

PROGRAMS: Final = ("Predict", "RAG", "ReAct", "100 kB", "nested 1", "nested 11")

_COMPARED: Final = ("Predict", "RAG", "ReAct", "100 kB")

LIMITS: Final[Mapping[str, float]] = dict.fromkeys(_COMPARED, 2.1)
"""Steps added to a call, as a multiple of the floor's steps."""

NO_CONTENT_LIMITS: Final[Mapping[str, float]] = dict.fromkeys(_COMPARED, 1.9)
"""Steps added to a call without content, as a multiple of the floor's steps."""

ADAPTER_STEPS_LIMITS: Final[Mapping[str, float]] = dict.fromkeys(_COMPARED, 2.1)
"""Steps added with spans for format and parse, as a multiple of the floor's steps."""

ATTRIBUTES_LIMITS: Final[Mapping[str, float]] = dict.fromkeys(_COMPARED, 0.85)
"""Steps added with format and parse as attributes, as a part of those with spans for both."""

SAMPLED_OUT_LIMIT: Final = 95.0
"""Steps added to one operation below a root that is not sampled."""


PROCESSOR_LIMIT: Final = 3.6
"""Steps that the processor adds to a span, as a multiple of OpenTelemetry's processor's."""

_SAMPLED_OUT: Final = "sampled out, steps for each operation"
_PROCESSOR: Final = "span processor, beside OpenTelemetry's"


def measured() -> dict[str, float]:
    """Count the steps. Returns `ratios`."""
    counts = apart("benchmarks.counted:counted", PROGRAMS)
    return ratios(counts, apart("benchmarks.delivery.steps:processor_steps"))


def ratios(
    counts: Mapping[str, Mapping[str, float]], processors: Mapping[str, float]
) -> dict[str, float]:
    """The figures that have a limit, by their names."""
    found: dict[str, float] = {}
    for name in LIMITS:
        figures = counts[name]
        found[name] = figures["added"] / figures["floor"]
        found[f"{name}, NO_CONTENT"] = figures["no_content_added"] / figures["no_content_floor"]
        steps = figures["adapter_steps_added"]
        found[f"{name}, adapter_steps=spans"] = steps / figures["adapter_steps_floor"]
        found[f"{name}, beside adapter_steps=spans"] = figures["added"] / steps
    deep, flat = counts["nested 11"], counts["nested 1"]
    found[_SAMPLED_OUT] = (deep["sampled_out"] - flat["sampled_out"]) / 10
    found[_PROCESSOR] = processors["ours"] / processors["OpenTelemetry's"]
    return found


def limits() -> dict[str, float]:
    """The limit of each of `ratios`."""
    found: dict[str, float] = {}
    for name, limit in LIMITS.items():
        found[name] = limit
        found[f"{name}, NO_CONTENT"] = NO_CONTENT_LIMITS[name]
        found[f"{name}, adapter_steps=spans"] = ADAPTER_STEPS_LIMITS[name]
        found[f"{name}, beside adapter_steps=spans"] = ATTRIBUTES_LIMITS[name]
    found[_SAMPLED_OUT] = SAMPLED_OUT_LIMIT
    found[_PROCESSOR] = PROCESSOR_LIMIT
    return found


def exceeded(found: Mapping[str, float]) -> list[str]:
    """Messages about the figures that exceed their limits."""
    return [
        f"{name}: {found[name]:.2f} is over the limit of {limit:g}"
        for name, limit in limits().items()
        if found[name] > limit
    ]


def main() -> int:
    found = measured()
    rows = [[name, times(value), times(limits()[name])] for name, value in found.items()]
    header = ["", "added / floor", "limit"]
    print(as_text(Table("", "Executed instructions and C calls", header, rows)))
    over = exceeded(found)
    print("\n".join(over))
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
