# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Traces of six spans, as a small DSPy program makes them, by OpenTelemetry's API or MLflow's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from opentelemetry.trace import SpanKind, Tracer

SPANS = 6
"""In each trace."""

_QUESTION = {"question": "Which tower is 330 metres tall?"}
_ANSWER = {"answer": "The Eiffel Tower", "reasoning": "The context says so. " * 10}
_PROMPT = "Your input fields are: 1. `context` (str) 2. `question` (str). " * 12
_MESSAGES = [
    {"role": "system", "parts": [{"type": "text", "content": _PROMPT}]},
    {"role": "user", "parts": [{"type": "text", "content": _QUESTION["question"]}]},
]
_REPLY = [{"role": "assistant", "parts": [{"type": "text", "content": _ANSWER["reasoning"]}]}]


def _module(operation: str, name: str) -> dict[str, Any]:
    return {
        "dspy.operation": operation,
        "dspy.module.type": name,
        "dspy.module.input": json.dumps(_QUESTION),
        "dspy.module.output": json.dumps(_ANSWER),
    }


_WORKFLOW = {
    **_module("module", "RAG"),
    "gen_ai.operation.name": "invoke_workflow",
    "gen_ai.workflow.name": "RAG",
}
_ADAPTER = {"dspy.operation": "adapter", "dspy.adapter.type": "ChatAdapter"}
_CHAT = {
    "dspy.operation": "lm",
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
    "gen_ai.usage.input_tokens": 120,
    "gen_ai.usage.output_tokens": 30,
    "dspy.lm.cost.total": 0.0001,
    "gen_ai.input.messages": json.dumps(_MESSAGES),
    "gen_ai.output.messages": json.dumps(_REPLY),
}
_TOOL = {
    "dspy.operation": "tool",
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "search",
    "gen_ai.tool.call.arguments": json.dumps(_QUESTION),
    "gen_ai.tool.call.result": json.dumps(_ANSWER["reasoning"]),
}


def trace_maker(tracer: Tracer) -> Callable[[], None]:
    """Return a function that makes one trace with OpenTelemetry."""
    start = tracer.start_as_current_span

    def make() -> None:
        with start("invoke_workflow RAG", attributes=_WORKFLOW):
            with start("execute_tool search", attributes=_TOOL):
                pass
            with (
                start("ChainOfThought generate", attributes=_module("module", "ChainOfThought")),
                start("Predict generate", attributes=_module("predict", "Predict")),
                start("ChatAdapter", attributes=_ADAPTER),
                start("chat gpt-4o-mini", kind=SpanKind.CLIENT, attributes=_CHAT),
            ):
                pass

    return make


def mlflow_trace_maker() -> Callable[[], None]:
    """Return a function that makes the same trace with MLflow's own API."""
    import mlflow

    def span(name: str, kind: str, inputs: Any, outputs: Any) -> Any:
        return _Filled(mlflow.start_span(name, span_type=kind), inputs, outputs)

    def make() -> None:
        with span("RAG", "CHAIN", _QUESTION, _ANSWER):
            with span("search", "TOOL", _QUESTION, _ANSWER["reasoning"]):
                pass
            with (
                span("ChainOfThought", "CHAIN", _QUESTION, _ANSWER),
                span("Predict", "LLM", _QUESTION, _ANSWER),
                span("ChatAdapter", "PARSER", _QUESTION, _ANSWER),
                span("chat", "CHAT_MODEL", _MESSAGES, _REPLY) as chat,
            ):
                usage = {"input_tokens": 120, "output_tokens": 30, "total_tokens": 150}
                chat.set_attribute("mlflow.chat.tokenUsage", usage)

    return make


class _Filled:
    """A span of MLflow with inputs at its start and outputs at its end."""

    def __init__(self, manager: Any, inputs: Any, outputs: Any) -> None:
        self._manager, self._inputs, self._outputs = manager, inputs, outputs
        self._span: Any = None

    def __enter__(self) -> Any:
        self._span = self._manager.__enter__()
        self._span.set_inputs(self._inputs)
        return self._span

    def __exit__(self, *error: Any) -> Any:
        self._span.set_outputs(self._outputs)
        return self._manager.__exit__(*error)
