# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of a queued span, and of a process through which a million spans go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.processes import Worker, apart
from benchmarks.scale import Scale
from benchmarks.tables import Table

NAME = "memory"
_SLOW_SECONDS = 0.5
LABELS = {
    "steady": "steady rate",
    "full": "queue full, server slow",
    "down": "server down, spooling",
}


def run(scale: Scale) -> dict[str, Any]:
    """Measure a queued span, then each situation in a separate process."""
    found: dict[str, Any] = {
        "per_span": apart("benchmarks.delivery.queue_memory:bytes_per_span"),
        "spans": scale.memory_spans,
    }
    for name in LABELS:
        found[name] = _situation(name, scale.memory_spans)
    return found


def _situation(name: str, spans: int) -> dict[str, Any]:
    function = "benchmarks.delivery.queue_memory:size_over_time"
    delay = _SLOW_SECONDS if name == "full" else 0.0
    with Worker("benchmarks.delivery.stub_server:StubServer", delay) as server:
        uri = server.call("uri")
        if name == "down":
            server.close()
        return apart(function, uri, spans, steady=name == "steady")


def tables(data: Mapping[str, Any]) -> list[Table]:
    """A table of the sizes at a quarter, at half and at the end."""
    rows = []
    for name, label in LABELS.items():
        figures = data[name]
        sizes = [size for _, size in figures["points"]]
        at = [sizes[len(sizes) // 4 - 1], sizes[len(sizes) // 2 - 1], sizes[-1]]
        rows.append(
            [
                label,
                *(f"{size:.0f}" for size in at),
                f"{max(sizes[len(sizes) // 4 :]) - min(sizes[len(sizes) // 4 :]):.0f}",
                f"{figures['spans_per_second']:,.0f}",
                f"{figures['stored']:,}",
                f"{figures['spilled']:,}",
                f"{figures['dropped']:,}",
            ]
        )
    header = [
        f"{data['spans']:,} spans",
        "MiB at 1/4",
        "at 1/2",
        "at the end",
        "range after 1/4",
        "spans/s",
        "stored by then",
        "given to the spool",
        "lost",
    ]
    per_span = data["per_span"]
    note = (
        f"A queued span takes {per_span['tracemalloc']:,.0f} bytes by tracemalloc and "
        f"{per_span['resident']:,.0f} resident, of which 969 are its own 920 characters of "
        "content. The spool is limited to 64 MiB here, and drops its oldest spans at that."
    )
    return [
        Table("memory", "Resident size", header, rows, note, ("performance-memory.svg",)),
    ]
