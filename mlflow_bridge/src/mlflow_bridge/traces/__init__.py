# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Traces that have ended: as objects, out of MLflow, and out of files.

Importing this package imports neither MLflow nor the OpenTelemetry SDK.
"""

from mlflow_bridge.traces.finished import FinishedSpan, FinishedTrace
from mlflow_bridge.traces.query import get_traces, read_otlp_json

__all__ = ["FinishedSpan", "FinishedTrace", "get_traces", "read_otlp_json"]
