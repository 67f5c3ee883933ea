# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Growth of the cost of a span: with depth, with earlier calls, with threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import rounds
from benchmarks.processes import Worker
from benchmarks.scale import Scale
from benchmarks.tables import Table, micro, times

NAME = "growth"
DEPTHS = (1, 4, 16)
THREADS = (1, 4, 16)
_NESTED_CALLS = 320
_PREDICT_CALLS = 64
_RAG_CALLS = 12
_KINDS = ("none", "ours", "floor")


def run(scale: Scale) -> dict[str, Any]:
    """Measure the cost of a span and its ratio to the floor at each point of each series."""
    with ExitStack() as stack:
        workers = {
            "none": stack.enter_context(Worker("benchmarks.measured:MeasuredPrograms", "none")),
            "ours": stack.enter_context(Worker("benchmarks.measured:MeasuredPrograms", "ours")),
            "floor": stack.enter_context(Worker("benchmarks.measured:MeasuredFloor")),
        }
        for name in ("Predict", "RAG", *(f"nested {depth}" for depth in DEPTHS)):
            workers["none"].call("warm_up", name)
            workers["ours"].call("warm_up", name)
            workers["floor"].call("learn", name, workers["ours"].call("recipes", name))
        count = scale.growth_rounds
        depth = _series(workers, [(f"nested {d}", _NESTED_CALLS // d, 1, d) for d in DEPTHS], count)
        spans = len(workers["ours"].call("recipes", "Predict"))
        threads = _series(
            workers, [("Predict", _PREDICT_CALLS, number, spans) for number in THREADS], count
        )
        history = _histories(workers, scale)
    return {
        "modules deep": dict(zip(map(str, DEPTHS), depth, strict=True)),
        "earlier calls": history,
        "threads": dict(zip(map(str, THREADS), threads, strict=True)),
    }


def _histories(workers: Mapping[str, Worker], scale: Scale) -> dict[str, Any]:
    """Measure RAG, whose modules keep a history. Last, since calls cannot be undone."""
    spans = len(workers["ours"].call("recipes", "RAG"))
    found: dict[str, Any] = {}
    done = 0
    for earlier in scale.earlier_calls:
        for way in ("none", "ours"):
            workers[way].call("warm_up", "RAG", earlier - done)
        done = earlier
        point = ("RAG", _RAG_CALLS, 1, spans)
        found[str(earlier)] = _series(workers, [point], scale.growth_rounds)[0]
    return found


def _series(
    workers: Mapping[str, Worker], points: Sequence[tuple[str, int, int, int]], count: int
) -> list[dict[str, float]]:
    """Run interleaved rounds over all points: program, calls, threads and number of spans."""
    taken: dict[tuple[int, str], list[float]] = {}
    for _, order in rounds.in_turns(list(range(len(points))), count):
        for index in order:
            name, calls, threads, _ = points[index]
            for kind in _KINDS:
                sample = workers[kind].call("sample", name, calls, threads)
                taken.setdefault((index, kind), []).append(sample.thread)
    return [
        {
            "added_us_per_span": rounds.added(taken[i, "none"], taken[i, "ours"]) / point[3],
            "ratio": rounds.ratio(*(taken[i, kind] for kind in _KINDS)),
        }
        for i, point in enumerate(points)
    ]


def tables(data: Mapping[str, Any]) -> list[Table]:
    """A table with one row for each point."""
    rows = [
        [f"{value} {what}", micro(point["added_us_per_span"]), times(point["ratio"])]
        for what, points in data.items()
        for value, point in points.items()
    ]
    return [
        Table(
            "growth",
            "Does the cost of a span grow?",
            ["", "added for each span, µs", "ratio to the floor"],
            rows,
            "Nested modules that do nothing; RAG after earlier calls; Predict in threads. "
            "Thread CPU, content recorded.",
        )
    ]
