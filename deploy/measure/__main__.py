# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What storing spans in MLflow costs: seconds and CPU seconds per span on every side.

From the root of the repository, with the two packages, dspy and mlflow installed::

    python -m deploy.measure --uri sqlite:////tmp/a.db
    python -m deploy.measure --server sqlite:////tmp/b.db --workers 1 --clients 4
    python -m deploy.measure --server postgresql://... --workers 4 --clients 4 --database-pid 123

The clients are threads of this process, each with an exporter of its own; all of them send real
traces in batches as the bridge does. One line of JSON is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from deploy.measure.processes import cpu_seconds, mlflow_server
from deploy.measure.traces import content_bytes, copies, recorded_trace
from mlflow_bridge import MLflowSpanExporter


def main() -> None:
    options = _options()
    trace = recorded_trace()
    report: dict[str, object] = {
        "spans_per_trace": len(trace),
        "content_bytes_per_trace": content_bytes(trace),
        "clients": options.clients,
        "batch": options.batch,
        "plain": options.plain,
    }
    with ExitStack() as stack:
        uri, pids = options.uri, {}
        if options.server:
            report["workers"] = options.workers
            uri, pids["server"] = stack.enter_context(
                mlflow_server(options.server, options.workers)
            )
        if options.database_pid:
            pids["database"] = options.database_pid
        store = _sqlite_file(options.server or options.uri)
        report["store"] = (options.server or options.uri).split(":")[0]
        report |= _measure(uri, options, trace, pids, store)
    print(json.dumps(report), flush=True)


def _measure(
    uri: str,
    options: argparse.Namespace,
    trace: list[ReadableSpan],
    pids: dict[str, int],
    store: Path | None,
) -> dict[str, object]:
    exporters = [_exporter(uri, options.plain) for _ in range(options.clients)]
    for number, exporter in enumerate(exporters):  # imports, connections and caches
        for round_ in range(options.workers):
            exporter.export(copies(trace, 10, f"warm-up {number} {round_}"))
    per_client = [
        copies(trace, options.traces // options.clients, f"{number} of {options.seed}")
        for number in range(options.clients)
    ]
    spans = sum(map(len, per_client))
    bytes_before = _size(store)
    cpu_before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    own_before, start = _own_cpu(), time.perf_counter()
    latencies = _send(exporters, per_client, options.batch)
    seconds, own = time.perf_counter() - start, _own_cpu() - own_before
    report = {
        "spans": spans,
        "seconds": round(seconds, 2),
        "spans_per_second": round(spans / seconds),
        "client_cpu_us_per_span": round(own / spans * 1e6),
        "batch_seconds_median": round(sorted(latencies)[len(latencies) // 2], 3),
        "batch_seconds_max": round(max(latencies), 3),
        "load_average": os.getloadavg()[0],
    }
    for name, pid in pids.items():
        used = cpu_seconds(pid) - cpu_before[name]
        report[f"{name}_cpu_us_per_span"] = round(used / spans * 1e6)
    if store is not None:
        report["database_bytes_per_span"] = round((_size(store) - bytes_before) / spans)
    for exporter in exporters:
        exporter.shutdown()
    return report


def _exporter(uri: str, plain: bool) -> SpanExporter:
    if not plain:
        return MLflowSpanExporter(tracking_uri=uri, experiment_name="measured")
    return OTLPSpanExporter(
        endpoint=f"{uri}/v1/traces",
        headers={"x-mlflow-experiment-id": "0"},
        timeout=120,
        compression=Compression.Gzip,
    )


def _send(
    exporters: list[SpanExporter], per_client: list[list[ReadableSpan]], batch: int
) -> list[float]:
    gate = threading.Barrier(len(exporters))

    def send(exporter: SpanExporter, spans: list[ReadableSpan]) -> list[float]:
        gate.wait()
        latencies: list[float] = []
        for first in range(0, len(spans), batch):
            start = time.perf_counter()
            if exporter.export(spans[first : first + batch]) is not SpanExportResult.SUCCESS:
                raise SystemExit("not all spans were stored")
            latencies.append(time.perf_counter() - start)
        return latencies

    with ThreadPoolExecutor(len(exporters)) as pool:
        return [value for values in pool.map(send, exporters, per_client) for value in values]


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _sqlite_file(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _size(file: Path | None) -> int:
    return 0 if file is None else file.stat().st_size


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.measure")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--uri", help="the store or server that the clients write to")
    target.add_argument("--server", help="start an mlflow server on this store, and write to it")
    parser.add_argument(
        "--plain", action="store_true", help="send spans as a collector does, without the bridge"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of that server")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--traces", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=512, help="spans in one write")
    parser.add_argument("--database-pid", type=int, help="the postmaster, for its CPU time")
    parser.add_argument("--seed", default=str(time.time_ns()))
    return parser.parse_args()


if __name__ == "__main__":
    main()
