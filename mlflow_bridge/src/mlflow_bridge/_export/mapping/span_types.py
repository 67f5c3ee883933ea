# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Mapping of operations to MLflow's span types, which decide icon, filters and dashboards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.instrumentation.dspy.semconv import DSPY_OPERATION, GEN_AI_OPERATION_NAME

UNKNOWN: Final = "UNKNOWN"
_OPENINFERENCE_KIND: Final = "openinference.span.kind"

# By dspy.operation. For modules and LM calls, a type by GenAI operation takes precedence, because
# it distinguishes more (agents, chat).
_BY_DSPY_OPERATION: Final = {
    "module": "CHAIN",
    "predict": "LLM",
    "adapter": "PARSER",
    "adapter.format": "PARSER",
    "adapter.parse": "PARSER",
    "lm": "LLM",
    "tool": "TOOL",
    "retrieval": "RETRIEVER",
    "embedding": "EMBEDDING",
    "interpreter": "TOOL",
    "parallel": "CHAIN",
    "evaluate": "EVALUATOR",
    "example": "EVALUATOR",
    "metric": "EVALUATOR",
    "compile": "CHAIN",
    "trial": "CHAIN",
    "stream": "CHAIN",
}

_BY_GENAI_OPERATION: Final = {
    "chat": "CHAT_MODEL",
    "text_completion": "LLM",
    "generate_content": "LLM",
    "response": "LLM",
    "embeddings": "EMBEDDING",
    "retrieval": "RETRIEVER",
    "execute_tool": "TOOL",
    "create_agent": "AGENT",
    "invoke_agent": "AGENT",
    "invoke_workflow": "CHAIN",
    "plan": "CHAIN",
    "search_memory": "MEMORY",
    "create_memory": "MEMORY",
    "update_memory": "MEMORY",
    "upsert_memory": "MEMORY",
    "delete_memory": "MEMORY",
}

_BY_OPENINFERENCE_KIND: Final = {
    kind: kind
    for kind in (
        "AGENT",
        "CHAIN",
        "EMBEDDING",
        "EVALUATOR",
        "GUARDRAIL",
        "LLM",
        "RERANKER",
        "RETRIEVER",
        "TOOL",
    )
}


def span_type(attributes: Mapping[str, Any]) -> str:
    """The type of the span with these attributes; UNKNOWN if the span is not about GenAI."""
    operation = attributes.get(DSPY_OPERATION)
    genai = _BY_GENAI_OPERATION.get(str(attributes.get(GEN_AI_OPERATION_NAME)))
    if operation is not None:
        # Not for "predict": a Predict outside of a module is a workflow, but is shown as an LLM.
        if genai is not None and operation in ("module", "lm"):
            return genai
        return _BY_DSPY_OPERATION.get(str(operation), UNKNOWN)
    if genai is not None:
        return genai
    return _BY_OPENINFERENCE_KIND.get(str(attributes.get(_OPENINFERENCE_KIND)), UNKNOWN)
