# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The CPU time that each instrumentation adds to each program, compared with the floor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import rounds
from benchmarks.instrumentations import WAYS, available
from benchmarks.processes import Worker
from benchmarks.scale import Scale
from benchmarks.tables import Table, micro, times

NAME = "cost"
COMPARED = (
    "none",
    "openinference",
    "genai-dspy",
    "mlflow",
    "ours",
    "ours-no-content",
    "ours-sampled-out",
)
_IN_PLACE = ("ours", "ours-no-content")
PROGRAMS = ("Predict", "RAG", "ReAct", "100 kB")
_CALLS = {"Predict": 120, "RAG": 48, "ReAct": 12, "100 kB": 75}
_MLFLOW_SHARE = 8
"""Divisor of the number of calls with MLflow's exporter, which takes long."""


def run(scale: Scale) -> dict[str, Any]:
    """Interleaved rounds of every program under every instrumentation that is installed."""
    ways = available(COMPARED)
    with ExitStack() as stack:
        workers = {
            way: stack.enter_context(Worker("benchmarks.measured:MeasuredPrograms", way))
            for way in ways
        }
        floor = stack.enter_context(Worker("benchmarks.measured:MeasuredFloor"))
        spans, has_floor = _prepare(workers, floor)
        samples = _samples(workers, floor, has_floor, scale.rounds)
    return {
        program: {way: _figures(samples, program, way, spans[program, way]) for way in ways}
        for program in PROGRAMS
    }


def _prepare(
    workers: Mapping[str, Worker], floor: Worker
) -> tuple[dict[tuple[str, str], int], set[tuple[str, str]]]:
    spans: dict[tuple[str, str], int] = {}
    known: set[tuple[str, str]] = set()
    for program in PROGRAMS:
        for way, worker in workers.items():
            worker.call("warm_up", program)
            spans[program, way] = worker.call("span_count", program)
            recipes = worker.call("recipes", program)
            if recipes:
                floor.call("learn", (program, way), recipes)
                workers["none"].call("learn", (program, way), recipes)
                known.add((program, way))
                floor.call("sample", (program, way), 20)
    return spans, known


def _samples(
    workers: Mapping[str, Worker], floor: Worker, known: set[tuple[str, str]], count: int
) -> dict[tuple[str, str, str], list[Any]]:
    found: dict[tuple[str, str, str], list[Any]] = {}
    for _, ways in rounds.in_turns(list(workers), count):
        for program in PROGRAMS:
            for way in ways:
                calls = _CALLS[program] // (_MLFLOW_SHARE if way == "mlflow" else 1) or 1
                sample = workers[way].call("sample", program, calls)
                found.setdefault((program, way, "program"), []).append(sample)
                if (program, way) in known:
                    sample = floor.call("sample", (program, way), _CALLS[program])
                    found.setdefault((program, way, "floor"), []).append(sample)
                if way in _IN_PLACE:
                    arguments = program, _CALLS[program], 1, (program, way)
                    sample = workers["none"].call("sample", *arguments)
                    found.setdefault((program, way, "in place"), []).append(sample)
    return found


def _figures(
    samples: Mapping[tuple[str, str, str], Sequence[Any]], program: str, way: str, spans: int
) -> dict[str, Any]:
    alone = [sample.thread for sample in samples[program, "none", "program"]]
    here = samples[program, way, "program"]
    thread = [sample.thread for sample in here]
    alone_process = [sample.process for sample in samples[program, "none", "program"]]
    figures: dict[str, Any] = {
        "spans": spans,
        "total_us": rounds.added([0.0] * len(thread), thread),
        "added_us": rounds.added(alone, thread),
        "added_quartiles_us": rounds.quartiles([b - a for a, b in zip(alone, thread, strict=True)]),
        "process_us": rounds.added(alone_process, [sample.process for sample in here]),
    }
    floor = [sample.thread for sample in samples.get((program, way, "floor"), ())]
    if floor:
        figures["floor_us"] = rounds.added([0.0] * len(floor), floor)
        figures["ratio"] = rounds.ratio(alone, thread, floor)
    beside = [sample.thread for sample in samples.get((program, way, "in place"), ())]
    if beside:
        in_place = [b - a for a, b in zip(alone, beside, strict=True)]
        figures["floor_in_place_us"] = statistics.median(in_place)
        figures["ratio_in_place"] = figures["added_us"] / figures["floor_in_place_us"]
    return figures


def tables(data: Mapping[str, Any]) -> list[Table]:
    """A table of all instrumentations, and a table of ours."""
    return [_compared(data), _ours(data)]


def _compared(data: Mapping[str, Any]) -> Table:
    peers = ("openinference", "genai-dspy", "mlflow", "ours")
    ways = [way for way in peers if way in data[PROGRAMS[0]]]
    header = ["program", "DSPy alone", *(WAYS[way].label for way in ways)]
    rows = [
        [
            program,
            f"{micro(data[program]['none']['total_us'])} µs",
            *(_cell(data[program][way], way) for way in ways),
        ]
        for program in PROGRAMS
    ]
    return Table(
        "cost",
        "CPU time added to one call",
        header,
        rows,
        "CPU of the calling thread, content recorded. The ratio is to the floor of the same spans "
        "that each instrumentation makes. MLflow's has no null exporter: it writes to SQLite, and "
        "the CPU of the whole process is given too.",
        ("performance-cost.svg", "performance-ratio.svg"),
    )


def _cell(figures: Mapping[str, Any], way: str) -> str:
    text = f"+{micro(figures['added_us'])} µs, {figures['spans']} spans"
    if way == "mlflow":
        return f"{text}, {figures['process_us'] / 1000:.1f} ms in all"
    return f"{text}, {times(figures['ratio'])}" if "ratio" in figures else text


def _ours(data: Mapping[str, Any]) -> Table:
    rows = []
    for program in PROGRAMS:
        for way in ("ours", "ours-no-content", "ours-sampled-out"):
            figures = data[program][way]
            low, high = figures["added_quartiles_us"]
            floor = figures.get("floor_us")
            rows.append(
                [
                    f"{program}: {WAYS[way].label}",
                    str(figures["spans"]),
                    micro(figures["added_us"]),
                    f"{micro(low)} to {micro(high)}",
                    micro(floor) if floor is not None else "-",
                    times(figures["ratio"]) if "ratio" in figures else "-",
                    micro(figures["floor_in_place_us"]) if floor is not None else "-",
                    times(figures["ratio_in_place"]) if floor is not None else "-",
                ]
            )
    header = [
        *("program", "spans", "added, µs", "quartiles", "floor, µs", "added / floor"),
        *("floor in place, µs", "added / floor in place"),
    ]
    note = (
        "The floor is a loop that makes nothing but these spans. In place, they are made after "
        "each call of the program, which leaves them the caches as any instrumentation finds them."
    )
    return Table("cost-ours", "Ours, in three modes", header, rows, note)
