# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans as the DSPy instrumentation makes them, made with the SDK alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from tests.support.memory import span_memory

SCOPE = "opentelemetry.instrumentation.dspy"


def json_of(value: Any) -> str:
    return orjson.dumps(value).decode()


def text_message(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}], **more}


def lm_attributes(**overrides: Any) -> dict[str, Any]:
    """A chat call that used 100 + 20 tokens; an override of ``None`` leaves the attribute out."""
    attributes: dict[str, Any] = {
        "dspy.operation": "lm",
        "dspy.lm.cache.hit": False,
        "dspy.lm.cost.total": 0.0012,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "openai/gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini",
        "gen_ai.request.temperature": 0.7,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 10,
        "gen_ai.input.messages": json_of(
            [
                text_message("system", "Answer."),
                text_message("user", "[[ ## question ## ]]\nCapital of Japan?"),
            ]
        ),
        "gen_ai.output.messages": json_of(
            [text_message("assistant", "[[ ## answer ## ]]\n東京", finish_reason="stop")]
        ),
    }
    attributes.update({key.replace("__", "."): value for key, value in overrides.items()})
    return {key: value for key, value in attributes.items() if value is not None}


class Recorder:
    """Makes ended spans with a tracer of the instrumentation's name."""

    def __init__(self, service: str = "test") -> None:
        provider_and_memory: tuple[TracerProvider, InMemorySpanExporter] = span_memory(
            service=service
        )
        self.provider, self._memory = provider_and_memory
        self.tracer: Tracer = self.provider.get_tracer(SCOPE, "0.1")

    def take(self) -> list[ReadableSpan]:
        """The spans that ended since the last call, in the order in which they ended."""
        spans = list(self._memory.get_finished_spans())
        self._memory.clear()
        return spans

    def one(
        self,
        name: str = "span",
        attributes: Mapping[str, Any] | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> ReadableSpan:
        """A single root span."""
        self.tracer.start_span(name, kind=kind, attributes=attributes).end()
        return self.take()[0]

    def many(self, count: int, name: Callable[[int], str] = "span {}".format) -> list[ReadableSpan]:
        """Root spans of as many traces."""
        for index in range(count):
            self.tracer.start_span(name(index)).end()
        return self.take()

    def rag(self, root: Mapping[str, Any] | None = None) -> list[ReadableSpan]:
        """A program: two predictors with an LM call each (the second from the cache), and a tool.

        120 tokens and 0.0012 USD in all.
        """
        module = {
            "dspy.operation": "module",
            "dspy.module.type": "RAG",
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": "RAG",
            "dspy.module.input": json_of({"question": "Capital of Japan?"}),
            "dspy.module.output": json_of({"answer": "東京"}),
            **(root or {}),
        }
        with self.tracer.start_as_current_span("invoke_workflow RAG", attributes=module):
            self._predict("generate", lm_attributes())
            self._predict("check", _without_usage(lm_attributes(dspy__lm__cache__hit=True)))
            tool = {
                "dspy.operation": "tool",
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "search",
                "gen_ai.tool.call.arguments": json_of({"query": "Japan"}),
                "gen_ai.tool.call.result": json_of("an island country"),
            }
            self.tracer.start_span("execute_tool search", attributes=tool).end()
        return self.take()

    def _predict(self, path: str, lm: Mapping[str, Any]) -> None:
        predict = {
            "dspy.operation": "predict",
            "dspy.module.type": "Predict",
            "dspy.module.path": path,
            "dspy.module.input": json_of({"question": "Capital of Japan?"}),
            "dspy.module.output": json_of({"answer": "東京"}),
        }
        with (
            self.tracer.start_as_current_span(f"Predict {path}", attributes=predict),
            self.tracer.start_as_current_span(
                "ChatAdapter",
                attributes={"dspy.operation": "adapter", "dspy.adapter.type": "ChatAdapter"},
            ),
        ):
            self.tracer.start_span("chat gpt-4o-mini", kind=SpanKind.CLIENT, attributes=lm).end()

    def failed(self) -> list[ReadableSpan]:
        """A program whose only step raised."""
        module = {"dspy.operation": "module", "dspy.module.type": "Broken"}
        with self.tracer.start_as_current_span("invoke_workflow Broken", attributes=module) as root:
            step = self.tracer.start_span("Predict step", attributes={"dspy.operation": "predict"})
            for span in (step, root):
                span.record_exception(ValueError("no such field"))
                span.set_status(Status(StatusCode.ERROR, "no such field"))
            step.end()
        return self.take()


def _without_usage(attributes: Mapping[str, Any]) -> dict[str, Any]:
    dropped = ("gen_ai.usage.", "dspy.lm.cost.")
    return {key: value for key, value in attributes.items() if not key.startswith(dropped)}


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]
