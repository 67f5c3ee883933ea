# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The code of a measured process: one path to MLflow, with its defaults."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from benchmarks.delivery.traces import SPANS, mlflow_trace_maker, trace_maker

EXPERIMENT = "benchmarks"
_FLUSH_MILLIS = 600_000
_RESOURCE = Resource.create({"service.name": "benchmarks"})


@dataclass(frozen=True)
class Delivered:
    """A burst of traces."""

    wall: float
    """Seconds from the first span's start until the path reports that all spans are stored."""
    cpu: float
    """Seconds of CPU of this process meanwhile."""
    caller: float
    """Seconds of CPU of the thread that made the traces, until the last one's end."""


class MeasuredPath:
    """One path that makes traces as fast as it can, and waits until they are stored.

    Args:
        path: ``bridge``, ``mlflow`` (MLflow's API and exporter), ``mlflow-otel`` (OpenTelemetry's
            API and MLflow's exporter) or ``otlp`` (OpenTelemetry's own exporter).
        uri: The tracking URI.
    """

    def __init__(self, path: str, uri: str) -> None:
        logging.disable(logging.CRITICAL)
        os.environ["MLFLOW_TRACKING_URI"] = uri
        self._status: Callable[[], Any] = lambda: None
        makers = {
            "bridge": self._bridge,
            "mlflow": self._mlflow,
            "mlflow-otel": self._mlflow_otel,
            "otlp": self._otlp,
        }
        self._make, self._flush = makers[path](uri)
        # The first write makes the database or meets the server.
        self.deliver(2)

    def deliver(self, traces: int) -> Delivered:
        """Make a burst of this number of traces."""
        gc.collect()
        cpu, caller, start = time.process_time(), time.thread_time(), time.perf_counter()
        for _ in range(traces):
            self._make()
        made = time.thread_time() - caller
        self._flush()
        return Delivered(time.perf_counter() - start, time.process_time() - cpu, made)

    def spans_per_trace(self) -> int:
        return SPANS

    def _bridge(self, uri: str) -> tuple[Callable[[], None], Callable[[], Any]]:
        from mlflow_bridge import (
            MLflowBatchSpanProcessor,
            MLflowDSPyConfig,
        )

        config = MLflowDSPyConfig(
            tracking_uri=uri,
            experiment_name=EXPERIMENT,
            spool_directory=Path(tempfile.mkdtemp(prefix="bench-spool-")),
        )
        provider = TracerProvider(resource=_RESOURCE)
        batch = MLflowBatchSpanProcessor(config)
        provider.add_span_processor(batch)
        make = trace_maker(provider.get_tracer("opentelemetry.instrumentation.dspy"))
        return make, lambda: batch.force_flush(_FLUSH_MILLIS)

    def _mlflow(self, uri: str) -> tuple[Callable[[], None], Callable[[], Any]]:
        import mlflow

        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
        return mlflow_trace_maker(), mlflow.flush_trace_async_logging

    def _mlflow_otel(self, uri: str) -> tuple[Callable[[], None], Callable[[], Any]]:
        os.environ["MLFLOW_USE_DEFAULT_TRACER_PROVIDER"] = "false"
        trace.set_tracer_provider(TracerProvider(resource=_RESOURCE))
        import mlflow

        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_span("set up"):  # adds MLflow's processor to the provider
            pass
        return trace_maker(trace.get_tracer("benchmarks")), mlflow.flush_trace_async_logging

    def _otlp(self, uri: str) -> tuple[Callable[[], None], Callable[[], Any]]:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = OTLPSpanExporter(
            endpoint=f"{uri}/v1/traces", headers={"x-mlflow-experiment-id": "0"}, timeout=60
        )
        provider = TracerProvider(resource=_RESOURCE)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        make = trace_maker(provider.get_tracer("benchmarks"))
        return make, lambda: provider.force_flush(_FLUSH_MILLIS)
