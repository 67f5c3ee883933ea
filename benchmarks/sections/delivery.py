# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Delivery to MLflow: time to stored, CPU, losses; compared with MLflow's and raw inserts."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import rounds
from benchmarks.processes import Worker, apart
from benchmarks.scale import Scale
from benchmarks.tables import Table, percent, times

NAME = "delivery"
LABELS = {
    "bridge": "ours",
    "mlflow": "MLflow's API and exporter",
    "mlflow-otel": "MLflow's exporter on OpenTelemetry's spans",
    "otlp": "OpenTelemetry's OTLP exporter",
}
_SQLITE_PATHS = ("bridge", "mlflow", "mlflow-otel")
_SERVER_PATHS = ("bridge", "mlflow", "otlp")


def run(scale: Scale) -> dict[str, Any]:
    """Measure every path into SQLite and to a server, raw inserts, the caller, and a profile."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        return {
            "traces": scale.compared_traces,
            "burst_traces": scale.burst_traces,
            "sqlite": _sqlite(scale, directory),
            "server": _server(scale, directory),
            "raw": apart(
                "benchmarks.delivery.stores:raw_inserts",
                directory / "bridge.db",
                directory / "raw.db",
            ),
            "caller_us": apart("benchmarks.delivery.caller:caller_cost", scale.caller_rounds),
            "where": apart("benchmarks.delivery.where:where_it_goes", scale.profile_seconds),
        }


def _sqlite(scale: Scale, directory: Path) -> dict[str, Any]:
    files = {path: directory / f"{path}.db" for path in _SQLITE_PATHS}
    with ExitStack() as stack:
        workers = {
            path: stack.enter_context(_path(path, f"sqlite:///{file}"))
            for path, file in files.items()
        }
        return _measured(workers, files, scale, lambda: 0.0)


def _server(scale: Scale, directory: Path) -> dict[str, Any]:
    from tests.support.mlflow_server import MLflowServer

    place = directory / "server"
    place.mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(MLflowServer(place, start_timeout=180))
        workers = {path: stack.enter_context(_path(path, server.uri)) for path in _SERVER_PATHS}
        file = place / "mlflow.db"
        files: dict[str, Path] = {path: file for path in _SERVER_PATHS}
        return _measured(workers, files, scale, lambda: _group_cpu(server.process_id))


def _path(path: str, uri: str) -> Worker:
    return Worker("benchmarks.delivery.paths:MeasuredPath", path, uri)


def _measured(
    workers: Mapping[str, Worker], files: Mapping[str, Path], scale: Scale, server_cpu: Any
) -> dict[str, Any]:
    taken: dict[str, list[dict[str, float]]] = {path: [] for path in workers}
    for _, order in rounds.in_turns(list(workers), scale.delivery_rounds):
        for path in order:
            args = workers[path], files[path], scale.compared_traces, server_cpu
            taken[path].append(_burst(*args))
    figures: dict[str, Any] = {path: _medians(samples) for path, samples in taken.items()}
    for path in workers:
        args = workers[path], files[path], scale.burst_traces, server_cpu
        figures[path]["burst"] = _burst(*args)
    return figures


def _burst(worker: Worker, file: Path, traces: int, server_cpu: Any) -> dict[str, float]:
    from benchmarks.delivery.stores import complete_traces, settled_traces

    before, cpu = complete_traces(file), server_cpu()
    done = worker.call("deliver", traces)
    stored = settled_traces(file, before + traces) - before
    return {
        "seconds": done.wall,
        "cpu_ms_per_trace": done.cpu / traces * 1000,
        "server_ms_per_trace": (server_cpu() - cpu) / traces * 1000,
        "lost": traces - stored,
    }


def _medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.median(sample[key] for sample in samples) for key in samples[0]}


def _group_cpu(group: int) -> float:
    """CPU seconds of all processes of a group, and of the child processes they waited for."""
    ticks = 0
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            ticks += _ticks(directory / "stat", group)
    return ticks / os.sysconf("SC_CLK_TCK")


def _ticks(stat: Path, group: int) -> int:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:  # the process has ended meanwhile
        return 0
    return sum(map(int, fields[11:15])) if int(fields[2]) == group else 0


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Tables of the paths, of the caller's share, and of the remaining CPU time."""
    return [
        _paths_table("sqlite", "Into SQLite, in the program's process", data),
        _paths_table("server", "Into an MLflow server on this machine", data),
        _raw_table(data),
        _caller_table(data),
    ]


def _paths_table(kind: str, title: str, data: Mapping[str, Any]) -> Table:
    ours = data[kind]["bridge"]
    rows = []
    for path, figures in data[kind].items():
        client, server = figures["cpu_ms_per_trace"], figures["server_ms_per_trace"]
        total = ours["cpu_ms_per_trace"] + ours["server_ms_per_trace"]
        row = [
            LABELS[path],
            f"{figures['seconds']:.2f} s",
            times(figures["seconds"] / ours["seconds"]),
            f"{client:.2f} ms",
            *([f"{server:.2f} ms"] if kind == "server" else []),
            times((client + server) / total),
            f"{int(figures['burst']['lost'])} ({figures['burst']['seconds']:.1f} s)",
        ]
        rows.append(row)
    server_column = ["server CPU per trace"] if kind == "server" else []
    header = [
        "",
        "time to stored",
        "of ours",
        "CPU per trace",
        *server_column,
        "of ours",
        f"lost of {data['burst_traces']:,}",
    ]
    note = (
        f"Bursts of {data['traces']} traces of 6 spans, which every path takes without loss; "
        "medians. CPU of the program's whole process, making the traces included. "
        f"The last column is one burst of {data['burst_traces']:,} traces."
    )
    chart = ("performance-delivery.svg",) if kind == "sqlite" else ()
    return Table(f"delivery-{kind}", title, header, rows, note, chart)


def _raw_table(data: Mapping[str, Any]) -> Table:
    raw, ours = data["raw"], data["sqlite"]["bridge"]
    raw_cpu = raw["cpu"] / raw["traces"] * 1000
    raw_rate = raw["traces"] / raw["wall"]
    our_rate = data["traces"] / ours["seconds"]
    rows = [
        ["raw inserts of the same rows", f"{raw_cpu:.3f} ms", f"{raw_rate:,.0f}"],
        ["ours", f"{ours['cpu_ms_per_trace']:.3f} ms", f"{our_rate:,.0f}"],
        ["ours / raw", times(ours["cpu_ms_per_trace"] / raw_cpu), times(raw_rate / our_rate)],
        *([f"share of CPU: {name}", percent(share), "-"] for name, share in data["where"].items()),
    ]
    return Table(
        "delivery-raw",
        "How far from raw inserts, and where the rest goes",
        ["", "CPU per trace", "traces a second"],
        rows,
        "Raw: the rows that MLflow wrote, read back and written by sqlite3's executemany, as many "
        "in a transaction.",
    )


def _caller_table(data: Mapping[str, Any]) -> Table:
    labels = {"OpenTelemetry's": "OpenTelemetry's batch processor", "ours": "ours"}
    rows = [[labels[kind], f"{value:.2f} µs"] for kind, value in data["caller_us"].items()]
    return Table(
        "delivery-caller",
        "What the program's thread pays for each span",
        ["", "thread CPU for each span"],
        rows,
        "Beside a provider without any processor. Ours also enriches the trace.",
    )
