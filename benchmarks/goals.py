# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Goals, compared with the measured figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.tables import Table, micro, percent, times

_GROWTH_MARGIN = 1.25
"""Largest ratio of the last to the first point of a series: allows for a busy machine's noise."""


@dataclass(frozen=True)
class Goal:
    """A figure and its limit."""

    what: str
    measured: float
    limit: float
    shown: Callable[[float], str] = times

    @property
    def reached(self) -> bool:
        return self.measured <= self.limit

    def row(self) -> list[str]:
        """The row of the goal in the table."""
        return [
            self.what,
            self.shown(self.measured),
            f"≤ {self.shown(self.limit)}",
            "yes" if self.reached else "**no**",
        ]


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """Every goal for which there are figures."""
    return [
        goal
        for section, find in _FINDERS.items()
        if results.get(section)
        for goal in find(results[section])
    ]


def goals_table(results: Mapping[str, Any]) -> Table:
    """The table of all goals, reached or not."""
    rows = [goal.row() for goal in goals(results)]
    header = ["goal", "measured", "at most", "reached"]
    return Table("goals", "Goals and what this run measured", header, rows)


def _instructions(data: Mapping[str, Any]) -> Iterator[Goal]:
    added = data["Predict with content"] - data["Predict alone"]
    yield Goal("Predict with content, instructions", added / data["Predict floor"], 1.5)


def _cost(data: Mapping[str, Any]) -> Iterator[Goal]:
    for program, ways in data.items():
        limit = 3.0 if program == "100 kB" else 1.5
        for key, name in (("ratio", "the floor"), ("ratio_in_place", "the floor in place")):
            yield Goal(f"{program} with content, CPU to {name}", ways["ours"][key], limit)
    for program, ways in data.items():
        yield Goal(
            f"{program}, NO_CONTENT, CPU to the floor in place",
            ways["ours-no-content"]["ratio_in_place"],
            1.2,
        )


def _growth(data: Mapping[str, Any]) -> Iterator[Goal]:
    for what, points in data.items():
        values = [point["ratio"] for point in points.values()]
        yield Goal(f"growth of the ratio with {what}", values[-1] / values[0], _GROWTH_MARGIN)


def _unsampled(data: Mapping[str, Any]) -> Iterator[Goal]:
    yield Goal("module below an unsampled root", data["nested_module_us"], 2.0, _micro)
    for name, figures in data["programs"].items():
        yield Goal(
            f"{name} below an unsampled root, each operation", figures["operation_us"], 2.0, _micro
        )
    for name, left in data["left_behind"].items():
        blocks = float(left["blocks"])
        yield Goal(f"{name} sampled out, blocks left by 300 calls", blocks, 0.0, "{:.0f}".format)


def _startup(data: Mapping[str, Any]) -> Iterator[Goal]:
    for key, name in (("cpu_ms", "CPU"), ("rss_mib", "resident size")):
        share = data["with"][key] / data["without"][key] - 1
        yield Goal(f"start-up without dspy, {name} added", share, 0.05, percent)
    for key, name in (("cpu_ms", "CPU"), ("rss_mib", "resident size")):
        share = data["named"][key] / data["console"][key] - 1
        what = f"start-up without dspy, exporter `mlflow` instead of `console`, {name} added"
        yield Goal(what, share, 0.10, percent)


def _delivery(data: Mapping[str, Any]) -> Iterator[Goal]:
    yield Goal("caller's thread, each span", data["caller_us"]["ours"], 5.0, _micro)
    for kind in ("sqlite", "server"):
        ours, theirs = data[kind]["bridge"], data[kind]["mlflow"]
        yield Goal(f"{kind}: time to stored", ours["seconds"] / theirs["seconds"], 1 / 8, _share)
        yield Goal(f"{kind}: CPU per trace", _cpu(ours) / _cpu(theirs), 1 / 7, _share)
        lost = ours["burst"]["lost"]
        yield Goal(f"{kind}: lost of {data['burst_traces']:,} traces", lost, 0.0, "{:.0f}".format)


def _cpu(figures: Mapping[str, float]) -> float:
    return figures["cpu_ms_per_trace"] + figures["server_ms_per_trace"]


def _latency(data: Mapping[str, Any]) -> Iterator[Goal]:
    limits = {"200 ms, 1": (0.01, 0.001), "200 ms, 16": (0.01, 0.001), "20 ms, 16": (0.05, 0.01)}
    for situation, (full, tenth) in limits.items():
        for way, limit in (("ours", full), ("ours-tenth", tenth)):
            label = "all sampled" if way == "ours" else "10 % sampled"
            overhead = data[situation][way]["overhead"]
            what = f"LM of {situation} at a time, {label}, wall time"
            yield Goal(what, overhead, limit, percent)


def _memory(data: Mapping[str, Any]) -> Iterator[Goal]:
    for name in ("steady", "full", "down"):
        sizes = [size for _, size in data[name]["points"]]
        middle = len(sizes) // 2
        yield Goal(
            f"resident size at the end to half-way, {name}", sizes[-1] / sizes[middle - 1], 1.1
        )


def _micro(value: float) -> str:
    return f"{micro(value)} µs"


def _share(value: float) -> str:
    return f"1/{1 / value:.1f}" if value else "0"


_FINDERS: Mapping[str, Callable[[Any], Iterator[Goal]]] = {
    "instructions": _instructions,
    "cost": _cost,
    "unsampled": _unsampled,
    "growth": _growth,
    "startup": _startup,
    "latency": _latency,
    "delivery": _delivery,
    "memory": _memory,
}
