# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The size of a run: enough for exact figures, or enough to see that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Numbers of rounds, calls, traces and spans in a run."""

    rounds: int = 11
    """Rounds of the programs' CPU time."""
    growth_rounds: int = 7
    startup_rounds: int = 20
    caller_rounds: int = 11
    latency_rounds: int = 4
    latency_calls: int = 8
    """Calls of each thread in a round."""
    compared_traces: int = 100
    """Traces that every path stores: few enough for MLflow's own queue to take all of them."""
    delivery_rounds: int = 2
    burst_traces: int = 2_000
    memory_spans: int = 1_000_000
    earlier_calls: tuple[int, ...] = (0, 100, 1_000, 10_000)
    profile_seconds: float = 8.0
    counted_calls: int = 20
    """Calls under valgrind."""


FULL = Scale()
QUICK = Scale(
    rounds=4,
    growth_rounds=3,
    startup_rounds=4,
    caller_rounds=5,
    latency_rounds=2,
    latency_calls=4,
    compared_traces=60,
    delivery_rounds=1,
    burst_traces=300,
    memory_spans=50_000,
    earlier_calls=(0, 100, 300),
    profile_seconds=2.0,
    counted_calls=5,
)
