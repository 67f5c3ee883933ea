# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Every operation has its span type."""

from __future__ import annotations

import pytest

from mlflow_bridge._export.mapping.span_types import span_type
from opentelemetry.instrumentation.dspy.semconv import GenAIOperations, Operations


def constants(source: type) -> list[str]:
    return [value for name, value in vars(source).items() if name.isupper()]


@pytest.mark.parametrize("operation", constants(Operations))
def test_every_operation_of_the_instrumentation_has_a_type(operation: str) -> None:
    assert span_type({"dspy.operation": operation}) != "UNKNOWN"


@pytest.mark.parametrize("operation", constants(GenAIOperations))
def test_every_genai_operation_of_the_instrumentation_has_a_type(operation: str) -> None:
    assert span_type({"gen_ai.operation.name": operation}) != "UNKNOWN"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"dspy.operation": "module"}, "CHAIN"),
        ({"dspy.operation": "module", "gen_ai.operation.name": "invoke_workflow"}, "CHAIN"),
        ({"dspy.operation": "module", "gen_ai.operation.name": "invoke_agent"}, "AGENT"),
        ({"dspy.operation": "predict"}, "LLM"),
        ({"dspy.operation": "predict", "gen_ai.operation.name": "invoke_workflow"}, "LLM"),
        ({"dspy.operation": "lm", "gen_ai.operation.name": "chat"}, "CHAT_MODEL"),
        ({"dspy.operation": "lm", "gen_ai.operation.name": "text_completion"}, "LLM"),
        ({"dspy.operation": "adapter.parse"}, "PARSER"),
        ({"dspy.operation": "tool", "gen_ai.operation.name": "execute_tool"}, "TOOL"),
        ({"dspy.operation": "retrieval", "gen_ai.operation.name": "retrieval"}, "RETRIEVER"),
        ({"dspy.operation": "embedding", "gen_ai.operation.name": "embeddings"}, "EMBEDDING"),
        ({"dspy.operation": "evaluate"}, "EVALUATOR"),
        ({"dspy.operation": "from the future"}, "UNKNOWN"),
        ({"gen_ai.operation.name": "chat"}, "CHAT_MODEL"),
        ({"openinference.span.kind": "RERANKER"}, "RERANKER"),
        ({"openinference.span.kind": "nonsense"}, "UNKNOWN"),
        ({"http.request.method": "GET"}, "UNKNOWN"),
        ({"gen_ai.operation.name": 5}, "UNKNOWN"),
    ],
)
def test_type(attributes: dict[str, object], expected: str) -> None:
    assert span_type(attributes) == expected
