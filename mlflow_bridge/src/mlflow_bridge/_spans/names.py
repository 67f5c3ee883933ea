# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Names of the attributes that MLflow reads from a span, and of the bridge's attributes.

MLflow defines its names in ``mlflow.tracing.constant``, which is not imported here: delivery to a
tracking server needs no MLflow in this process.
"""

from __future__ import annotations

from typing import Final

TRACE_ID: Final = "mlflow.traceRequestId"
"""Id of the trace; the attribute marks a span that MLflow stores, or has stored."""
EXPERIMENT_ID: Final = "mlflow.experimentId"
SOURCE_RUN: Final = "mlflow.sourceRun"
TRACE_TAG_PREFIX: Final = "mlflow.traceTag."
"""On a local root: the rest of the name is the key of a tag of the trace."""
TRACE_NAME_TAG: Final = "mlflow.traceName"
"""The tag in which MLflow keeps the name of a trace."""
TRACE_NAME: Final = f"{TRACE_TAG_PREFIX}{TRACE_NAME_TAG}"
MODEL_ID: Final = "mlflow.modelId"
"""On a local root, and a key of trace metadata: id of the logged model that made the trace."""
TRACE_METADATA_PREFIX: Final = "mlflow_bridge.trace_metadata."
"""On a local root: the rest of the name is the key of custom metadata of the trace."""
CLIENT_REQUEST_ID: Final = "mlflow_bridge.client_request_id"
"""On a local root: the id that the client of a service gave its request."""
REQUEST_PREVIEW: Final = "mlflow_bridge.request_preview"
"""On a local root: what MLflow shows as request, instead of the root's inputs."""
RESPONSE_PREVIEW: Final = "mlflow_bridge.response_preview"
"""On a local root: what MLflow shows as response, instead of the root's outputs."""
TRACE_STATE: Final = "mlflow_bridge.trace_state"
"""On a local root: OK or ERROR, instead of the status of the root."""
RUNS: Final = "mlflow_bridge.runs"
"""On a run of an evaluation or optimizer, and on the first span of an example: the runs in MLflow
that it belongs to, as JSON."""
EVALUATION_REQUEST_TAG: Final = f"{TRACE_TAG_PREFIX}mlflow.eval.requestId"
"""On a local root: what identifies an example, by which MLflow compares evaluations."""
ANNOTATION: Final = "mlflow_bridge.annotation"
"""On a span that is no span of the program: what a trace gets after it is stored, as JSON."""
TRACE_SESSION: Final = "mlflow.trace.session"
"""Key of trace metadata."""
TRACE_USER: Final = "mlflow.trace.user"
"""Key of trace metadata."""

SPAN_TYPE: Final = "mlflow.spanType"
INPUTS: Final = "mlflow.spanInputs"
OUTPUTS: Final = "mlflow.spanOutputs"
MESSAGE_FORMAT: Final = "mlflow.message.format"
CHAT_TOOLS: Final = "mlflow.chat.tools"
TOKEN_USAGE: Final = "mlflow.chat.tokenUsage"
COST: Final = "mlflow.llm.cost"
MODEL: Final = "mlflow.llm.model"
PROVIDER: Final = "mlflow.llm.provider"

ABSENT_PARENT: Final = "mlflow_bridge.absent_parent.span_id"
"""Span id of an absent parent: a parent of this process that is never delivered."""
WANTED_TRACES: Final = "mlflow_bridge.wanted_traces"
"""Resource attribute of a line without spans in a file of the spool: ids of wanted traces."""
SAMPLING_PROBABILITY: Final = "dspy.sampling.probability"
"""On the first span of a trace: the share of such traces that the sampler records, if below 1."""
SAMPLING_RANDOMNESS: Final = "dspy.sampling.randomness"
"""On the first span of a trace: the number of its sampling key, 16 hex digits."""
SAMPLING_REASON: Final = "dspy.sampling.reason"
"""Tag of a trace: why tail sampling keeps the trace."""
SAMPLING_WEIGHT: Final = "dspy.sampling.weight"
"""Tag of a trace: 1 divided by the probability that such a trace is in MLflow."""
DOCTOR_TAG: Final = "mlflow_bridge.doctor"
"""Tag of the traces with which the doctor tests the destination."""
