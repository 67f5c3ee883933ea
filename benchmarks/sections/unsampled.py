# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The cost of an operation below a root that is not sampled, and the memory it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks import rounds
from benchmarks.processes import Worker
from benchmarks.scale import Scale
from benchmarks.tables import Table, micro

NAME = "unsampled"
_DEPTHS = (1, 11, 21)
_NESTED_CALLS = 300
_PROGRAMS = {"Predict": 120, "RAG": 48}
_TRACED_CALLS = 300


def run(scale: Scale) -> dict[str, Any]:
    """Run interleaved rounds without instrumentation and with every root sampled out."""
    nested = [f"nested {depth}" for depth in _DEPTHS]
    calls = {name: _NESTED_CALLS for name in nested} | _PROGRAMS
    with ExitStack() as stack:
        workers = {
            way: stack.enter_context(Worker("benchmarks.measured:MeasuredPrograms", way))
            for way in ("none", "ours-sampled-out")
        }
        taken: dict[tuple[str, str], list[float]] = {}
        for name in calls:
            for worker in workers.values():
                worker.call("warm_up", name)
        for _, order in rounds.in_turns(list(calls), scale.rounds):
            for name in order:
                for way, worker in workers.items():
                    sample = worker.call("sample", name, calls[name])
                    taken.setdefault((name, way), []).append(sample.thread)
    added = {
        name: rounds.added(taken[name, "none"], taken[name, "ours-sampled-out"]) for name in calls
    }
    return {
        "root_us": added["nested 1"],
        "nested_module_us": rounds.slope(_DEPTHS, [added[name] for name in nested]),
        "programs": {name: _below_root(name, added) for name in _PROGRAMS},
        "left_behind": {name: _left_behind(name) for name in _PROGRAMS},
    }


def _below_root(name: str, added: Mapping[str, float]) -> dict[str, float]:
    with Worker("benchmarks.measured:MeasuredPrograms", "ours") as sampled:
        below = sampled.call("span_count", name) - 1
    return {
        "added_us": added[name],
        "operations_below": below,
        "operation_us": (added[name] - added["nested 1"]) / below,
    }


def _left_behind(name: str) -> dict[str, int]:
    """Measure the memory that calls leave in addition to calls without instrumentation."""
    found: list[dict[str, int]] = []
    for way in ("none", "ours-sampled-out"):
        with Worker("benchmarks.memory_probe:MemoryProbe", way) as probe:
            found.append(probe.call("left_behind", name, _TRACED_CALLS))
    alone, here = found
    return {key: here[key] - alone[key] for key in alone}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """A table of the times, and of the bytes that outlive the calls."""
    rows = [
        ["the root alone", "1", micro(data["root_us"]), "-"],
        ["a module below it", "1", "-", micro(data["nested_module_us"])],
    ]
    for name, figures in data["programs"].items():
        count = str(int(figures["operations_below"]) + 1)
        rows.append([name, count, micro(figures["added_us"]), micro(figures["operation_us"])])
    left = ", ".join(
        f"{name} {found['bytes']:,} bytes in {found['blocks']} blocks"
        for name, found in data["left_behind"].items()
    )
    return [
        Table(
            "unsampled",
            "Sampled out by a parent-based ratio",
            ["", "operations", "added to the call, µs", "for each operation below the root, µs"],
            rows,
            f"Left by {_TRACED_CALLS} calls beyond what they leave without instrumentation, by "
            f"tracemalloc: {left}.",
        )
    ]
