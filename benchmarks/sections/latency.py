# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Wall time of a program with an LM that has a latency."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from benchmarks import rounds
from benchmarks.instrumentations import WAYS, available
from benchmarks.processes import Worker
from benchmarks.scale import Scale
from benchmarks.tables import Table, percent

NAME = "latency"
_PROGRAM = "RAG"
_SITUATIONS = ((200, 1), (200, 16), (20, 16))
"""Milliseconds of each LM call, and the number of calling threads."""
_CALLS_IN_ONE_THREAD = 2
_WAYS = ("none", "ours", "ours-tenth", "openinference", "genai-dspy")
_BY_HAND = "by hand"
_LABELS = {_BY_HAND: "our spans, made by hand after each call"}


def run(scale: Scale) -> dict[str, Any]:
    """Run interleaved rounds of a program in each situation."""
    return {f"{delay} ms, {threads}": _in(delay, threads, scale) for delay, threads in _SITUATIONS}


def _in(delay: int, threads: int, scale: Scale) -> dict[str, Any]:
    # Short calls are repeated more often, so that a round takes long enough to be measured.
    calls = threads * scale.latency_calls * (4 if delay < 100 else 1)
    if threads == 1:
        calls *= _CALLS_IN_ONE_THREAD
    ways = available(_WAYS)
    taken: dict[str, list[float]] = {way: [] for way in (*ways, _BY_HAND)}
    used: dict[str, list[float]] = {way: [] for way in (*ways, _BY_HAND)}
    with ExitStack() as stack:
        workers = {
            way: stack.enter_context(
                Worker("benchmarks.measured:MeasuredPrograms", way, delay / 1000)
            )
            for way in ways
        }
        for worker in workers.values():
            worker.call("warm_up", _PROGRAM, 3)
        workers["none"].call("learn", _BY_HAND, workers["ours"].call("recipes", _PROGRAM))
        for _, order in rounds.in_turns((*ways, _BY_HAND), scale.latency_rounds):
            for way in order:
                sample = _sample(workers, way, calls, threads)
                taken[way].append(sample.wall)
                used[way].append(sample.thread)
    return {way: _figures(way, taken, used) for way in taken}


def _sample(workers: Mapping[str, Worker], way: str, calls: int, threads: int) -> Any:
    if way == _BY_HAND:
        return workers["none"].call("sample", _PROGRAM, calls, threads, _BY_HAND)
    return workers[way].call("sample", _PROGRAM, calls, threads)


def _figures(
    way: str, taken: Mapping[str, list[float]], used: Mapping[str, list[float]]
) -> dict[str, Any]:
    alone = taken["none"]
    shares = [here / there - 1 for here, there in zip(taken[way], alone, strict=True)]
    return {
        "call_ms": statistics.median(taken[way]) / 1000,
        "overhead": rounds.ratio(alone, taken[way], alone),
        "overhead_quartiles": rounds.quartiles(shares),
        "added_cpu_us": rounds.added(used["none"], used[way]),
    }


def tables(data: Mapping[str, Any]) -> list[Table]:
    """A table of the wall times, compared with the program alone."""
    rows = []
    for situation, ways in data.items():
        alone = ways["none"]["call_ms"] * 1000
        delay, threads = situation.split(", ")
        where = f"{delay}, {threads} thread{'' if threads == '1' else 's'}"
        for way, figures in ways.items():
            low, high = figures["overhead_quartiles"]
            rows.append(
                [
                    where,
                    _LABELS[way] if way in _LABELS else WAYS[way].label,
                    f"{figures['call_ms']:.1f} ms",
                    percent(figures["overhead"]),
                    f"{percent(low)} to {percent(high)}",
                    percent(figures["added_cpu_us"] / alone),
                ]
            )
    return [
        Table(
            "latency",
            "RAG with an LM that takes its time",
            ["LM latency", "", "wall for each call", "overhead", "quartiles", "added CPU / wall"],
            rows,
            "The last column is what the thread's own CPU time adds to its wall time; waiting for "
            "the interpreter lock, and noise, come on top in the others.",
        )
    ]
