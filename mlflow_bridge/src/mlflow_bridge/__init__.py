# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Delivery of OpenTelemetry traces, in particular traces of DSPy programs, to MLflow.

Call it once in a program::

    import mlflow_bridge

    mlflow_bridge.autolog()

A program that is started by ``opentelemetry-instrument`` with ``OTEL_TRACES_EXPORTER=mlflow`` needs
no call. ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` set the destination.

Importing this package imports neither MLflow nor DSPy nor the OpenTelemetry SDK. Names that need
them are loaded at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

# Not lazy: `autolog` and `doctor` are functions with the names of their modules. If such a module
# was imported later, the import system would replace the function with the module.
from mlflow_bridge._setup.autolog import autolog, disable_autolog, get_autolog_client
from mlflow_bridge._setup.client import AutologClient
from mlflow_bridge._setup.doctor import Check, DoctorReport, doctor
from mlflow_bridge.version import __version__

if TYPE_CHECKING:
    from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
    from mlflow_bridge._delivery.registry import status
    from mlflow_bridge._delivery.spool.deliver import SpoolDelivery, deliver_spool
    from mlflow_bridge._delivery.status import DeliveryStatus
    from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent, SpanDelivery
    from mlflow_bridge._export.delivery import ExporterStats
    from mlflow_bridge._export.exporter import MLflowSpanExporter
    from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor
    from mlflow_bridge._spans.current_trace import update_current_trace
    from mlflow_bridge._spans.trace_context import TraceContextBlock, trace_context
    from mlflow_bridge._spans.tracer_provider import SystemRandomIdGenerator
    from mlflow_bridge.evaluations.comparison import compare_evaluations
    from mlflow_bridge.evaluations.comparison_result import EvaluationComparison, ScorerComparison
    from mlflow_bridge.evaluations.quality_gate import CriterionResult, QualityReport, check_quality
    from mlflow_bridge.programs.loader import ProgramHashMismatch, ProgramNotFound, program_of
    from mlflow_bridge.programs.traced_module import TracedModule
    from mlflow_bridge.sampling.sampler import DSPySampler
    from mlflow_bridge.traces.finished import FinishedSpan, FinishedTrace
    from mlflow_bridge.traces.workers import TraceProcessorStatus
    from mlflow_bridge.tracking.logger import MLflowLogger, configure_mlflow

__all__ = [
    "AutologClient",
    "Check",
    "ConfigurationError",
    "CriterionResult",
    "DSPySampler",
    "DeliveryStatus",
    "DoctorReport",
    "EvaluationComparison",
    "ExporterStats",
    "FinishedSpan",
    "FinishedTrace",
    "MLflowBatchSpanProcessor",
    "MLflowDSPyConfig",
    "MLflowLogger",
    "MLflowSpanExporter",
    "Outcome",
    "ProgramHashMismatch",
    "ProgramNotFound",
    "QualityReport",
    "Rejected",
    "Retry",
    "ScorerComparison",
    "Sent",
    "SpanDelivery",
    "SpoolDelivery",
    "SystemRandomIdGenerator",
    "TraceContextBlock",
    "TraceProcessorStatus",
    "TracedModule",
    "__version__",
    "autolog",
    "check_quality",
    "compare_evaluations",
    "configure_mlflow",
    "deliver_spool",
    "disable_autolog",
    "doctor",
    "get_autolog_client",
    "program_of",
    "status",
    "trace_context",
    "update_current_trace",
]

_HOMES: Final = {
    "ConfigurationError": "mlflow_bridge._config.settings",
    "CriterionResult": "mlflow_bridge.evaluations.quality_gate",
    "DSPySampler": "mlflow_bridge.sampling.sampler",
    "DeliveryStatus": "mlflow_bridge._delivery.status",
    "EvaluationComparison": "mlflow_bridge.evaluations.comparison_result",
    "ExporterStats": "mlflow_bridge._export.delivery",
    "FinishedSpan": "mlflow_bridge.traces.finished",
    "FinishedTrace": "mlflow_bridge.traces.finished",
    "MLflowBatchSpanProcessor": "mlflow_bridge._setup.processor",
    "MLflowDSPyConfig": "mlflow_bridge._config.settings",
    "MLflowLogger": "mlflow_bridge.tracking.logger",
    "MLflowSpanExporter": "mlflow_bridge._export.exporter",
    "Outcome": "mlflow_bridge._export.contract",
    "QualityReport": "mlflow_bridge.evaluations.quality_gate",
    "Rejected": "mlflow_bridge._export.contract",
    "Retry": "mlflow_bridge._export.contract",
    "ScorerComparison": "mlflow_bridge.evaluations.comparison_result",
    "Sent": "mlflow_bridge._export.contract",
    "SpanDelivery": "mlflow_bridge._export.contract",
    "SpoolDelivery": "mlflow_bridge._delivery.spool.deliver",
    "SystemRandomIdGenerator": "mlflow_bridge._spans.tracer_provider",
    "TraceContextBlock": "mlflow_bridge._spans.trace_context",
    "TraceProcessorStatus": "mlflow_bridge.traces.workers",
    "TracedModule": "mlflow_bridge.programs.traced_module",
    "ProgramHashMismatch": "mlflow_bridge.programs.loader",
    "ProgramNotFound": "mlflow_bridge.programs.loader",
    "program_of": "mlflow_bridge.programs.loader",
    "configure_mlflow": "mlflow_bridge.tracking.logger",
    "check_quality": "mlflow_bridge.evaluations.quality_gate",
    "compare_evaluations": "mlflow_bridge.evaluations.comparison",
    "deliver_spool": "mlflow_bridge._delivery.spool.deliver",
    "status": "mlflow_bridge._delivery.registry",
    "trace_context": "mlflow_bridge._spans.trace_context",
    "update_current_trace": "mlflow_bridge._spans.current_trace",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
