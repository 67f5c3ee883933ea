# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans made by hand are those that they are to be compared with."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from benchmarks.floor import recipe, replay
from tests.support.memory import span_memory

ATTRIBUTES = {
    "plain": "text",
    "number": 3,
    "list": ("a", "b"),
    "object": '{"question":"why?"}',
    "array": '[{"role":"user"}]',
    "broken": "{not JSON",
}


def _span() -> ReadableSpan:
    provider, memory = span_memory()
    span = provider.get_tracer("test").start_span("chat", kind=SpanKind.CLIENT)
    span.set_attributes(ATTRIBUTES)
    span.end()
    return memory.get_finished_spans()[0]


def test_the_same_name_kind_and_attributes_come_out() -> None:
    provider, memory = span_memory()

    replay([recipe(_span())] * 2, provider.get_tracer("floor"))()

    made = memory.get_finished_spans()
    assert [(span.name, span.kind) for span in made] == [("chat", SpanKind.CLIENT)] * 2
    assert dict(made[0].attributes or {}) == ATTRIBUTES


def test_content_is_made_to_text_anew_each_time() -> None:
    made = recipe(_span())

    assert made.content == {"object": {"question": "why?"}, "array": [{"role": "user"}]}
    assert made.plain.keys() == {"plain", "number", "list", "broken"}
