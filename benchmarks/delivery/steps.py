# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of a batch processor on the thread of the program; see `benchmarks.steps`."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

from benchmarks.delivery.caller import NullDelivery
from benchmarks.null_exporter import NullExporter
from benchmarks.steps import count_steps

_CHILDREN = 5
_NEVER_SECONDS = 3600.0
_QUEUE = 100_000  # so that no batch is full meanwhile


def processor_steps() -> dict[str, float]:
    """Count the steps that start and end of a span add: of our processor and OpenTelemetry's."""
    bare = _steps(None)
    return {
        "ours": (_steps(_our_processor()) - bare) / (_CHILDREN + 1),
        "OpenTelemetry's": (_steps(_their_processor()) - bare) / (_CHILDREN + 1),
    }


def _our_processor() -> SpanProcessor:
    from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig

    config = MLflowDSPyConfig(
        tracking_uri="http://127.0.0.1:1",
        spool=False,
        max_queue_size=_QUEUE,
        max_batch_size=_QUEUE,
        schedule_delay_seconds=_NEVER_SECONDS,
    )
    return MLflowBatchSpanProcessor(NullDelivery(config))


def _their_processor() -> SpanProcessor:
    return BatchSpanProcessor(
        NullExporter(),
        max_queue_size=_QUEUE,
        max_export_batch_size=_QUEUE,
        schedule_delay_millis=_NEVER_SECONDS * 1000,
    )


def _steps(processor: SpanProcessor | None) -> float:
    provider = TracerProvider(shutdown_on_exit=False)
    if processor is not None:
        provider.add_span_processor(processor)
    # The filter passes traces of this scope.
    return count_steps(_trace(provider.get_tracer("opentelemetry.instrumentation.dspy")))


def _trace(tracer: Tracer) -> Callable[[], None]:
    def make() -> None:
        with tracer.start_as_current_span("root"):
            for _ in range(_CHILDREN):
                tracer.start_span("child").end()

    return make
