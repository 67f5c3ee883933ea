# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans of DSPy and GenAI, which make their trace one for MLflow."""

from __future__ import annotations

from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._spans.names import (
    ANNOTATION,
    EXPERIMENT_ID,
    MODEL_ID,
    SOURCE_RUN,
    TRACE_ID,
    TRACE_TAG_PREFIX,
)
from opentelemetry.instrumentation.dspy.semconv import DSPY_UNFINISHED, GEN_AI_CONVERSATION_ID

_DSPY: Final = "opentelemetry.instrumentation.dspy"
_MLFLOW: Final = "mlflow."
_PREFIXES: Final = ("dspy.", "gen_ai.", "llm.", _MLFLOW, "openinference.", "traceloop.", ANNOTATION)
# The bridge itself writes these attributes on any span.
_NO_SIGN: Final = frozenset(
    {GEN_AI_CONVERSATION_ID, DSPY_UNFINISHED, EXPERIMENT_ID, MODEL_ID, SOURCE_RUN, TRACE_ID}
)


def is_of_dspy(span: ReadableSpan) -> bool:
    """Whether the instrumentation of DSPy has made this span."""
    scope = span.instrumentation_scope
    return scope is not None and scope.name == _DSPY


def is_of_genai(span: ReadableSpan) -> bool:
    """Whether this span makes its trace one for MLflow."""
    if is_of_dspy(span):
        return True
    return any(
        key.startswith(_PREFIXES) and key not in _NO_SIGN and not key.startswith(TRACE_TAG_PREFIX)
        for key in span.attributes or ()
    )


def is_only_of_mlflow(span: ReadableSpan) -> bool:
    """Whether no attribute of a vocabulary other than MLflow's makes this a GenAI span."""
    return not is_of_dspy(span) and not any(
        key.startswith(_PREFIXES) and key not in _NO_SIGN and not key.startswith(_MLFLOW)
        for key in span.attributes or ()
    )
