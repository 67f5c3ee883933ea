# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The CPU time of an instrumented Predict by parts, now and before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import Worker
from benchmarks.scale import Scale
from benchmarks.tables import Table, micro

NAME = "profile"
_BEFORE = Path(__file__).parents[1] / "profile_before.json"
"""The figures of an earlier run of this section, for comparison."""

_PROGRAMS = ("Predict", "RAG")


def run(scale: Scale) -> dict[str, Any]:
    """Measure the CPU of each part for one call in microseconds, with content."""
    found: dict[str, Any] = {}
    with Worker("benchmarks.profiled:ProfiledPrograms", "ours") as worker:
        for name in _PROGRAMS:
            found[name] = worker.call("parts", name, scale.profile_seconds)
    return found


def tables(data: Mapping[str, Any]) -> list[Table]:
    """A table of each part, now and before."""
    before = json.loads(_BEFORE.read_text("utf-8")) if _BEFORE.exists() else {}
    return [_table(name, data[name], before.get(name, {})) for name in data]


def _table(name: str, now: Mapping[str, float], before: Mapping[str, float]) -> Table:
    parts = sorted(now.keys() | before.keys(), key=lambda part: -now.get(part, 0.0))
    rows = [
        [part, micro(before.get(part, 0.0)) if before else "-", micro(now.get(part, 0.0))]
        for part in parts
    ]
    ours = sum(value for part, value in now.items() if part != "DSPy and the rest")
    then = sum(value for part, value in before.items() if part != "DSPy and the rest")
    rows.append(["**without DSPy**", micro(then) if before else "-", micro(ours)])
    return Table("profile", f"{name}: CPU of one call, µs", ["part", "before", "now"], rows)
