# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context

from tests.support.memory import span_memory
from tests.support.otlp_decode import collected_spans
from tests.support.span_tree import assert_one_tree, only_span, span_tree, spans_named


def _rag(tracer: Tracer) -> None:
    with tracer.start_as_current_span("invoke_workflow RAG"):
        with tracer.start_as_current_span(
            "Predict generate", attributes={"dspy.operation": "predict", "n": 2}
        ):
            with tracer.start_as_current_span("ChatAdapter"):
                pass
            with tracer.start_as_current_span("ChatAdapter.parse") as parse:
                parse.set_status(StatusCode.ERROR)
        with (
            pytest.raises(ValueError),
            tracer.start_as_current_span("chat gpt-4o-mini", kind=SpanKind.CLIENT),
        ):
            raise ValueError("no")


_TREE = """\
invoke_workflow RAG [INTERNAL]
├─ Predict generate [INTERNAL] {dspy.operation=predict, n=2}
│  ├─ ChatAdapter [INTERNAL]
│  └─ ChatAdapter.parse [INTERNAL] ERROR
└─ chat gpt-4o-mini [CLIENT] ERROR(ValueError)"""


def test_tree_of_sdk_spans_and_of_the_same_spans_over_the_wire() -> None:
    provider, exporter = span_memory()
    _rag(provider.get_tracer("test"))
    spans = exporter.get_finished_spans()
    attributes = ("dspy.operation", "n")
    assert span_tree(spans, attributes=attributes) == _TREE
    over_the_wire = list(collected_spans(encode_spans(spans), {}))
    assert span_tree(over_the_wire, attributes=attributes) == _TREE


def test_more_can_be_said_of_a_span() -> None:
    provider, exporter = span_memory()
    provider.get_tracer("test").start_span("work").end()
    spans = exporter.get_finished_spans()
    assert span_tree(spans, describe=lambda node: f"({node.kind.lower()})").endswith("(internal)")


def test_error_type_attribute_comes_before_the_exception() -> None:
    provider, exporter = span_memory()
    with provider.get_tracer("test").start_as_current_span("work") as span:
        span.set_attribute("error.type", "dspy.errors.LMRateLimitError")
        span.set_status(StatusCode.ERROR)
    assert span_tree(exporter.get_finished_spans()) == "work [INTERNAL] ERROR(LMRateLimitError)"


def test_one_tree_gives_its_root() -> None:
    provider, exporter = span_memory()
    _rag(provider.get_tracer("test"))
    assert assert_one_tree(exporter.get_finished_spans()).name == "invoke_workflow RAG"


def _fails_with(spans: Any, message: str) -> str:
    with pytest.raises(AssertionError, match=message) as caught:
        assert_one_tree(spans)
    return str(caught.value)


def test_two_roots_are_shown_as_a_forest() -> None:
    provider, exporter = span_memory()
    for name in ("one", "two"):
        provider.get_tracer("test").start_span(name).end()
    text = _fails_with(exporter.get_finished_spans(), r"2 traces; 2 roots \(one, two\)")
    assert text.endswith("one [INTERNAL]\ntwo [INTERNAL]")


def test_no_spans_is_no_tree() -> None:
    _fails_with([], "0 traces; 0 roots")


def test_orphan() -> None:
    provider, exporter = span_memory()
    _rag(provider.get_tracer("test"))
    spans = [span for span in exporter.get_finished_spans() if span.name != "Predict generate"]
    text = _fails_with(spans, "orphans: ChatAdapter, ChatAdapter.parse")
    assert "\norphan: ChatAdapter [INTERNAL]\n" in text


def test_span_that_comes_twice() -> None:
    provider, exporter = span_memory()
    provider.get_tracer("test").start_span("one").end()
    _fails_with(exporter.get_finished_spans() * 2, "1 spans come twice")


def test_span_that_has_not_ended() -> None:
    provider, _ = span_memory()
    span = provider.get_tracer("test").start_span("open")
    assert "open [INTERNAL] NOT ENDED" in _fails_with([span], "not ended: open")
    span.end()


def test_children_stand_in_the_order_of_their_start() -> None:
    provider, exporter = span_memory()
    tracer = provider.get_tracer("test")
    root = tracer.start_span("root", start_time=1)
    context = set_span_in_context(root)
    tracer.start_span("late", context, start_time=9).end(10)
    tracer.start_span("early", context, start_time=5).end(20)
    root.end(30)
    lines = span_tree(exporter.get_finished_spans()).splitlines()
    assert lines[1:] == ["├─ early [INTERNAL]", "└─ late [INTERNAL]"]


def test_spans_by_name() -> None:
    provider, exporter = span_memory()
    for name in ("a", "b", "a"):
        provider.get_tracer("test").start_span(name).end()
    spans = exporter.get_finished_spans()
    assert spans_named(spans, "a") == [spans[0], spans[2]]
    assert only_span(spans, "b") is spans[1]
    with pytest.raises(AssertionError, match=r"2 spans are named 'a'\na \[INTERNAL\]"):
        only_span(spans, "a")
    with pytest.raises(AssertionError, match="0 spans"):
        only_span(spans, "c")


def test_span_memory_samples_as_told() -> None:
    provider, exporter = span_memory(ALWAYS_OFF)
    provider.get_tracer("test").start_span("unseen").end()
    assert exporter.get_finished_spans() == ()
