# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What ``opentelemetry-instrument`` calls at the start of a program.

It knows exporters by name, but puts each of them behind the SDK's own batch processor, which drops
spans when its queue is full or an export fails; and a declarative file cannot name another one. So
the hook here, which runs once the tracer provider stands, gives every MLflow exporter a processor
of ours, and has the exporter ignore what still comes through the other. Should the hook not run,
the exporter works as it was set up.

The hook runs in every process under ``opentelemetry-instrument``: this module imports nothing heavy
before it has found such an exporter.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlflow_bridge.export.exporter import MLflowSpanExporter

_logger = logging.getLogger(__name__)

_EXPORTER_MODULE: Final = "mlflow_bridge.export.exporter"

_adopted: list[MLflowSpanExporter] = []


def adopt_exporters() -> None:
    """Entry point ``opentelemetry_pre_instrument``: put our processors around our exporters.

    Never raises: an exception here would keep every instrumentation from being loaded.
    """
    if _EXPORTER_MODULE not in sys.modules:
        return
    try:
        _adopt_all()
    except Exception:
        _logger.warning(
            "The MLflow exporter stays behind OpenTelemetry's own batch processor, which loses "
            "spans under load (OTEL_TRACES_EXPORTER=mlflow).",
            exc_info=True,
        )


def adopted_exporters() -> tuple[MLflowSpanExporter, ...]:
    """The exporters that a hook has put behind processors of ours, in this process."""
    return tuple(_adopted)


def _adopt_all() -> None:
    from mlflow_bridge.export.exporter import live_exporters

    waiting = [exporter for exporter in live_exporters() if not exporter.adopted]
    exporters = [exporter for exporter in waiting if _is_usable(exporter)]
    for exporter in waiting:
        if exporter not in exporters:
            _refuse_for(exporter)
    if not exporters:
        return

    from opentelemetry import trace

    from mlflow_bridge.mlflow_tracing import join_mlflow_tracing
    from mlflow_bridge.processing.batch import MLflowBatchSpanProcessor
    from mlflow_bridge.processing.enrichment import MLflowEnrichmentProcessor
    from mlflow_bridge.processing.system_random_ids import use_system_random_ids
    from mlflow_bridge.processing.termination import handle_sigterm
    from mlflow_bridge.sampling.entry_point import warn_of_unused_settings

    provider = trace.get_tracer_provider()
    add_span_processor = getattr(provider, "add_span_processor", None)
    if add_span_processor is None:
        _logger.warning(
            "The tracer provider (%s) takes no span processors: the MLflow exporter is used as it "
            "was set up.",
            type(provider).__qualname__,
        )
        return
    warn_of_unused_settings(provider)
    use_system_random_ids(provider)
    mode = default_to_content()
    for exporter in exporters:
        processor = MLflowBatchSpanProcessor.from_config(exporter, exporter.config)
        # Making a new store takes seconds; a short program has none to spare after its first span.
        processor.warm_up()
        add_span_processor(processor)
        # After the processor is in place: the other way round a span that ends now would be lost,
        # while one that is stored twice is still one span in MLflow.
        exporter.adopt()
        _adopted.append(exporter)
        if exporter.config.flush_on_sigterm:
            handle_sigterm(exporter.config.exit_timeout_seconds)
        _logger.info(
            "Traces go to %s (content: %s).", exporter.config.destination_description, mode
        )
    # Behind those, which note the spans that are roots here; those are enriched.
    add_span_processor(MLflowEnrichmentProcessor())
    # And behind all of them, for it has a span delivered that they must have got before.
    join_mlflow_tracing(provider)


def _refuse_for(exporter: MLflowSpanExporter) -> None:
    """Count spans in the place of an exporter that has logged that none will reach MLflow.

    Left as it is, every batch would cost the program time, and the log another line.
    """
    from opentelemetry import trace

    from mlflow_bridge.processing.refusing import RefusingSpanProcessor

    add_span_processor = getattr(trace.get_tracer_provider(), "add_span_processor", None)
    if add_span_processor is not None:
        obstacle = exporter.warm_up()
        add_span_processor(RefusingSpanProcessor(obstacle.reason if obstacle else "bad settings"))
    exporter.adopt()


def _is_usable(exporter: MLflowSpanExporter) -> bool:
    # An exporter that could not use its settings describes another destination than they do.
    return exporter.destination_description == exporter.config.destination_description


def default_to_content() -> str:
    """Record inputs and outputs on spans, unless the environment has something to say about it.

    Returns:
        The name of the mode that holds now.
    """
    from opentelemetry.instrumentation.dspy.settings import (
        ContentMode,
        load_settings,
        set_default_content_mode,
    )

    set_default_content_mode(ContentMode.SPAN_ONLY)
    return load_settings().content_mode.name
