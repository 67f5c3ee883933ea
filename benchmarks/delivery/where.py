# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A CPU profile of storing: the same delivery, on the main thread."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks.delivery.traces import trace_maker
from benchmarks.sampling import Group, profile

_TRACES = 85
"""Traces in one write: 510 spans, about one batch of the processor."""

_GROUPS: tuple[Group, ...] = (
    ("the bridge: mapping and encoding", "/mlflow_bridge/"),
    ("SQLAlchemy, and SQLite below it", "/sqlalchemy/"),
    ("MLflow: entities", "/mlflow/entities/"),
    ("MLflow: SQL store", "/mlflow/store/"),
    ("MLflow: tracing", "/mlflow/tracing/"),
    ("MLflow: the rest", "/mlflow/"),
    ("OpenTelemetry", "/opentelemetry/"),
    ("making the traces", "/benchmarks/"),
)


def where_it_goes(seconds: float) -> dict[str, float]:
    """Measure the share of each group in the CPU time of a delivery to SQLite in this process."""
    from mlflow_bridge import MLflowSpanExporter

    logging.disable(logging.CRITICAL)
    file = Path(tempfile.mkdtemp(prefix="bench-")) / "mlflow.db"
    exporter = MLflowSpanExporter(f"sqlite:///{file}")
    exporter.deliver(_spans())
    batches: list[list[ReadableSpan]] = []

    def run() -> None:
        if not batches:
            batches.extend(_spans() for _ in range(4))
        exporter.deliver(batches.pop())

    shares = profile(run, seconds, _GROUPS)
    shares.pop("making the traces", None)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def _spans() -> list[ReadableSpan]:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    make = trace_maker(provider.get_tracer("opentelemetry.instrumentation.dspy"))
    for _ in range(_TRACES):
        make()
    return list(memory.get_finished_spans())
