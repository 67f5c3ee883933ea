# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What programs with the SDK and the bridge import; see `children`."""

import concurrent.futures.process
import multiprocessing.pool

import opentelemetry.sdk.trace.export

from mlflow_bridge import (
    DSPySampler,
    MLflowBatchSpanProcessor,
    MLflowDSPyConfig,
    MLflowSpanExporter,
    autolog,
    deliver_spool,
    trace_context,
)

__all__ = [
    "DSPySampler",
    "MLflowBatchSpanProcessor",
    "MLflowDSPyConfig",
    "MLflowSpanExporter",
    "autolog",
    "concurrent",
    "deliver_spool",
    "multiprocessing",
    "opentelemetry",
    "trace_context",
]
