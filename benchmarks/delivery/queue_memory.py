# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The memory of spans that wait for delivery."""

from __future__ import annotations

import gc
import logging
import resource
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Tracer

from benchmarks.delivery.caller import NullDelivery

_CONTENT = "The Eiffel Tower in Paris is 330 metres tall. " * 20
_ATTRIBUTES = {
    "dspy.operation": "lm",
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.usage.input_tokens": 120,
    "gen_ai.usage.output_tokens": 30,
}
_SPOOL_BYTES = 64 * 1024 * 1024
_POINTS = 40
_HIGH, _LOW = 8_000, 2_000
"""Numbers of queued spans at which a steady producer waits, and at which it goes on."""


def bytes_per_span(count: int = 15_000) -> dict[str, float]:
    """Measure the bytes of each queued span: resident, and by tracemalloc.

    Each span has six attributes and its own 920 characters of content, which the figure includes.
    """
    return {"resident": _resident_bytes(count), "tracemalloc": _traced_bytes(3_000)}


def _resident_bytes(count: int) -> float:
    provider, release = _stuck(count)
    tracer = provider.get_tracer("benchmarks")
    _make(tracer, 1_000)
    gc.collect()
    before = resident_bytes()
    _make(tracer, count - 2_000)
    gc.collect()
    used = resident_bytes() - before
    release.set()
    provider.shutdown()
    return used / (count - 2_000)


def _traced_bytes(count: int) -> float:
    provider, release = _stuck(count * 2)
    tracer = provider.get_tracer("benchmarks")
    _make(tracer, 600)
    tracemalloc.start()
    _make(tracer, count)
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    release.set()
    provider.shutdown()
    return used / count


class _Stuck(NullDelivery):
    def __init__(self, config: Any, release: threading.Event) -> None:
        super().__init__(config)
        self._release = release

    def deliver(self, spans: Sequence[ReadableSpan]) -> Any:
        self._release.wait()
        return super().deliver(spans)


def _stuck(count: int) -> tuple[TracerProvider, threading.Event]:
    from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig

    config = MLflowDSPyConfig(
        tracking_uri="http://127.0.0.1:1", max_queue_size=count, spool=False, traces="all"
    )
    release = threading.Event()
    provider = TracerProvider()
    processor = MLflowBatchSpanProcessor(_Stuck(config, release))
    provider.add_span_processor(processor)
    return provider, release


def size_over_time(uri: str, spans: int, *, steady: bool) -> dict[str, Any]:
    """Measure the resident size while this number of spans goes to a server.

    Args:
        uri: The URI of the server.
        spans: Number of spans, each in its own trace.
        steady: Whether to make spans no faster than they are delivered.

    Returns:
        ``points`` as spans made and MiB, and the counters of the processor.
    """
    logging.disable(logging.CRITICAL)
    provider, batch = _to_server(uri)
    tracer = provider.get_tracer("benchmarks")
    step = spans // _POINTS
    points: list[tuple[int, float]] = []
    start = time.perf_counter()
    for number in range(_POINTS):
        for _ in range(10):
            _make(tracer, step // 10)
            if steady:
                _wait(lambda: batch.status().queued > _HIGH, lambda: batch.status().queued < _LOW)
        points.append(((number + 1) * step, resident_bytes() / 2**20))
    seconds = time.perf_counter() - start
    status = batch.status()
    provider.shutdown()
    return {
        "points": points,
        "spans_per_second": spans / seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "stored": status.stored,
        "spilled": status.spilled,
        "spool_mib": status.spool_bytes / 2**20,
        "spool_dropped": status.spool_dropped,
        "dropped": status.dropped,
    }


def _to_server(uri: str) -> tuple[TracerProvider, Any]:
    from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig

    config = MLflowDSPyConfig(
        tracking_uri=uri,
        spool_directory=Path(tempfile.mkdtemp(prefix="bench-spool-")),
        spool_max_bytes=_SPOOL_BYTES,
        compression="none",
    )
    batch = MLflowBatchSpanProcessor(config)
    provider = TracerProvider()
    provider.add_span_processor(batch)
    return provider, batch


def _make(tracer: Tracer, count: int) -> None:
    for number in range(count):
        span = tracer.start_span("chat gpt-4o-mini", attributes=_ATTRIBUTES)
        span.set_attribute("gen_ai.input.messages", f"{_CONTENT}{number}")
        span.end()


def _wait(needed: Callable[[], bool], until: Callable[[], bool]) -> None:
    if needed():
        while not until():
            time.sleep(0.01)


def resident_bytes() -> int:
    """The resident size of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
