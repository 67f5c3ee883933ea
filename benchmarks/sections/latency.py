# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What a program notices whose LM takes its time."""

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
_THREADS = 16
_DELAYS = (0.2, 0.02)
_WAYS = ("none", "ours", "ours-tenth", "openinference", "genai-dspy")


def run(scale: Scale) -> dict[str, Any]:
    """Interleaved rounds of RAG in 16 threads, with each latency."""
    return {f"{delay * 1000:g}": _with_delay(delay, scale) for delay in _DELAYS}


def _with_delay(delay: float, scale: Scale) -> dict[str, Any]:
    ways = available(_WAYS)
    # The shorter the latency, the more calls, so that a round takes long enough to tell.
    calls = _THREADS * scale.latency_calls * (1 if delay > 0.1 else 4)
    taken: dict[str, list[float]] = {way: [] for way in ways}
    used: dict[str, list[float]] = {way: [] for way in ways}
    with ExitStack() as stack:
        workers = {
            way: stack.enter_context(Worker("benchmarks.measured:MeasuredPrograms", way, delay))
            for way in ways
        }
        for worker in workers.values():
            worker.call("warm_up", "RAG", 3)
        for _, order in rounds.in_turns(ways, scale.latency_rounds):
            for way in order:
                sample = workers[way].call("sample", "RAG", calls, _THREADS)
                taken[way].append(sample.wall)
                used[way].append(sample.thread)
    alone = taken["none"]
    return {
        way: {
            "call_ms": statistics.median(taken[way]) / 1000,
            "overhead": rounds.ratio(alone, taken[way], alone),
            "overhead_quartiles": rounds.quartiles(
                [here / there - 1 for here, there in zip(taken[way], alone, strict=True)]
            ),
            "added_cpu_us": rounds.added(used["none"], used[way]),
        }
        for way in ways
    }


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Wall time beside the program alone."""
    rows = []
    for delay, ways in data.items():
        alone = ways["none"]["call_ms"] * 1000
        for way, figures in ways.items():
            low, high = figures["overhead_quartiles"]
            rows.append(
                [
                    f"{delay} ms, {WAYS[way].label}",
                    f"{figures['call_ms']:.1f} ms",
                    percent(figures["overhead"]),
                    f"{percent(low)} to {percent(high)}",
                    percent(figures["added_cpu_us"] / alone),
                ]
            )
    return [
        Table(
            "latency",
            "RAG with an LM that takes its time, in 16 threads",
            ["LM latency", "wall for each call", "overhead", "quartiles", "added CPU / wall"],
            rows,
            "The last column is what the thread's own CPU time adds to its wall time; waiting for "
            "the interpreter lock, and noise, come on top in the others.",
        )
    ]
