# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The cost of delivery on the thread that ends a span."""

from __future__ import annotations

import gc
import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from benchmarks import rounds
from benchmarks.delivery.traces import SPANS, trace_maker
from benchmarks.null_exporter import NullExporter

_TRACES = 300
_KINDS = ("no processor", "OpenTelemetry's", "ours")


class NullDelivery:
    """An exporter for our batch processor that stores nothing and is always available."""

    destination_description = "nowhere"

    def __init__(self, config: Any) -> None:
        from mlflow_bridge import Sent

        self.config = config
        self._sent = Sent

    def warm_up(self) -> None:
        """Nothing to open."""

    def deliver(self, spans: Sequence[ReadableSpan]) -> Any:
        return self._sent(len(spans))

    def close(self) -> None:
        """Nothing to close."""


def caller_cost(count: int) -> dict[str, float]:
    """Measure the caller's CPU for each span in microseconds, for each kind of processor.

    Returns the median over interleaved rounds, on traces of six spans.
    """
    logging.disable(logging.CRITICAL)
    providers = {kind: _provider(kind) for kind in _KINDS}
    makers = {kind: trace_maker(providers[kind].get_tracer("benchmarks")) for kind in _KINDS}
    taken: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for number, order in rounds.in_turns(_KINDS, count + 1):
        for kind in order:
            used = _timed(makers[kind])
            providers[kind].force_flush()
            if number:  # the first round warms up
                taken[kind].append(used)
    return {kind: rounds.added(taken["no processor"], taken[kind]) for kind in _KINDS[1:]}


def _timed(make: Any) -> float:
    gc.collect()
    start = time.thread_time_ns()
    for _ in range(_TRACES):
        make()
    return (time.thread_time_ns() - start) / _TRACES / SPANS / 1000


def _provider(kind: str) -> TracerProvider:
    provider = TracerProvider()
    if kind == "OpenTelemetry's":
        provider.add_span_processor(BatchSpanProcessor(NullExporter(), max_queue_size=20_000))
    elif kind == "ours":
        from mlflow_bridge import (
            MLflowBatchSpanProcessor,
            MLflowDSPyConfig,
        )

        spool = Path(tempfile.mkdtemp(prefix="bench-spool-"))
        config = MLflowDSPyConfig(tracking_uri="http://127.0.0.1:1", spool_directory=spool)
        provider.add_span_processor(MLflowBatchSpanProcessor(NullDelivery(config)))
    return provider
