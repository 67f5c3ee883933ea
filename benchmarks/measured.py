# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The code of a measured process: programs, their time, and spans made by hand."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.floor import Recipe, recipe, replay
from benchmarks.instrumentations import WAYS
from benchmarks.null_exporter import null_provider
from benchmarks.programs import Program, program

_SETTLING_CALLS = 3
"""Untimed calls at the start of each sample: another process has used the CPU and its caches."""


@dataclass(frozen=True)
class Sample:
    """Times of one call, in microseconds."""

    thread: float
    """CPU of the calling threads."""
    process: float
    """CPU of the whole process until all spans were exported."""
    wall: float
    """Wall time of all threads together, divided by the number of calls of one thread."""


class MeasuredPrograms:
    """Programs under one way of instrumentation.

    Args:
        way: A key of `WAYS`.
        delay: Seconds that each LM call takes.
    """

    def __init__(self, way: str, delay: float = 0.0) -> None:
        logging.disable(logging.WARNING)
        self._installed = WAYS[way].install()
        self._delay = delay
        self._programs: dict[str, Program] = {}
        self._provider, _ = null_provider()
        self._makers: dict[Any, Callable[[], None]] = {}

    def sample(self, name: str, calls: int, threads: int = 1, by_hand: Any = None) -> Sample:
        """Time this number of calls, divided between the threads.

        ``by_hand`` is the key of learnt recipes: their spans are made by hand after each call. A
        loop that makes only spans would have the CPU's caches to itself, unlike any
        instrumentation.
        """
        chosen, make = self._program(name), self._makers.get(by_hand)
        gc.collect()
        chosen.calls(_SETTLING_CALLS, make)
        each = max(calls // threads, 1)
        before, start = time.process_time_ns(), time.perf_counter_ns()
        if threads == 1:
            used = _thread_time(lambda: chosen.calls(each, make))
        else:
            used = _in_threads(lambda: chosen.calls(each, make), threads)
        wall = time.perf_counter_ns() - start
        self._installed.flush()
        self._provider.force_flush()
        process = time.process_time_ns() - before
        count = each * threads
        return Sample(used / count / 1000, process / count / 1000, wall / each / 1000)

    def warm_up(self, name: str, calls: int = 10) -> None:
        """Run a program without measuring."""
        self._program(name).calls(calls)
        self._installed.flush()

    def span_count(self, name: str) -> int:
        """Count the spans of one call."""
        chosen = self._program(name)
        chosen.calls(1)
        self._installed.flush()
        before = self._installed.span_count()
        chosen.calls(1)
        self._installed.flush()
        return self._installed.span_count() - before

    def recipes(self, name: str) -> list[Recipe]:
        """Return the recipes for the spans of one call; empty if they go to another exporter."""
        chosen = self._program(name)
        chosen.calls(2)
        return [recipe(span) for span in self._installed.spans_of(lambda: chosen.calls(1))]

    def learn(self, key: Any, recipes: Sequence[Recipe]) -> None:
        """Take the recipes of spans that `sample` is to make by hand."""
        self._makers[key] = replay(recipes, self._provider.get_tracer("floor"))

    def _program(self, name: str) -> Program:
        if name not in self._programs:
            self._programs[name] = program(name, self._delay)
        return self._programs[name]


class MeasuredFloor:
    """Spans made by hand. DSPy is imported, because a garbage collection visits it, too."""

    def __init__(self) -> None:
        self._provider, _ = null_provider()
        self._makers: dict[Any, Callable[[], None]] = {}

    def learn(self, key: Any, recipes: Sequence[Recipe]) -> None:
        """Take the recipes for one call."""
        self._makers[key] = replay(recipes, self._provider.get_tracer("floor"))

    def sample(self, key: Any, calls: int, threads: int = 1) -> Sample:
        """Time the spans of this number of calls."""
        make = self._makers[key]
        each = max(calls // threads, 1)
        gc.collect()
        for _ in range(_SETTLING_CALLS):
            make()

        def run() -> None:
            for _ in range(each):
                make()

        before, start = time.process_time_ns(), time.perf_counter_ns()
        used = _thread_time(run) if threads == 1 else _in_threads(run, threads)
        wall = time.perf_counter_ns() - start
        self._provider.force_flush()
        process = time.process_time_ns() - before
        count = each * threads
        return Sample(used / count / 1000, process / count / 1000, wall / each / 1000)


def _thread_time(run: Callable[[], Any]) -> int:
    start = time.thread_time_ns()
    run()
    return time.thread_time_ns() - start


def _in_threads(run: Callable[[], Any], count: int) -> int:
    """Run in this number of threads. Returns their CPU time together, in nanoseconds."""
    used: list[int] = []
    barrier = threading.Barrier(count)

    def body() -> None:
        barrier.wait()
        used.append(_thread_time(run))

    threads = [threading.Thread(target=body) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(used) != count:
        raise RuntimeError("a measured thread failed")
    return sum(used)
