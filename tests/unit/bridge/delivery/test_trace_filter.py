# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from mlflow_bridge._delivery.trace_filter import TraceFilter
from mlflow_bridge._spans.genai import is_of_genai
from mlflow_bridge._spans.trace_buffer import BufferLimits, TraceBuffer

GENAI = {"gen_ai.operation.name": "chat"}
SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def span(
    name: str,
    trace: int = 1,
    *,
    parent: int | None = 99,
    remote: bool = False,
    attributes: Mapping[str, Any] | None = None,
    scope: str = "http.server",
) -> ReadableSpan:
    context = SpanContext(trace, hash(name) & 0xFFFF | 1, False, SAMPLED)
    above = None if parent is None else SpanContext(trace, parent, remote, SAMPLED)
    return ReadableSpan(
        name,
        context=context,
        parent=above,
        attributes=attributes,
        instrumentation_scope=InstrumentationScope(scope),
    )


def root(name: str = "root", trace: int = 1, **options: Any) -> ReadableSpan:
    return span(name, trace, parent=None, **options)


class Filtering:
    """A filter, the names that it sent and dropped, and the open traces of its process."""

    def __init__(self, max_spans: int = 1_000, **limits: int) -> None:
        self.open: set[int] = set()
        self.now = 0.0
        self.filter = TraceBuffer(
            TraceFilter(),
            BufferLimits(spans=max_spans, **limits),
            open_traces=lambda: self.open,
            clock=lambda: self.now,
        )
        self.sent: list[str] = []
        self.dropped: list[str] = []
        self.revived: list[str] = []

    def end(self, *spans: ReadableSpan) -> None:
        self.filter.begin()
        for found in (self.filter.add(spans), self.filter.conclude()):
            self.revived += [span.name for span in found.revived]
            self.sent += [span.name for span in found.kept]
            self.dropped += [span.name for span in found.dropped]


@pytest.mark.parametrize(
    ("scope", "attributes", "expected"),
    [
        ("opentelemetry.instrumentation.dspy", {}, True),
        ("anything", {"gen_ai.request.model": "m"}, True),
        ("anything", {"dspy.operation": "lm"}, True),
        ("anything", {"openinference.span.kind": "LLM"}, True),
        ("mlflow", {"mlflow.traceRequestId": '"tr-1"', "mlflow.spanType": '"TOOL"'}, True),
        ("opentelemetry.instrumentation.fastapi", {"http.route": "/ask"}, False),
        (
            "anything",
            {
                "session.id": "s",
                "gen_ai.conversation.id": "c",
                "mlflow.sourceRun": "r",
                "mlflow.experimentId": "1",
                "mlflow.traceTag.channel": "web",
                "dspy.unfinished": True,
            },
            False,
        ),
    ],
)
def test_a_genai_span_is_recognised(scope: str, attributes: dict[str, Any], expected: bool) -> None:
    assert is_of_genai(span("span", scope=scope, attributes=attributes)) is expected


def test_a_trace_without_genai_is_dropped_when_its_root_has_ended() -> None:
    case = Filtering()
    case.end(span("query"))
    assert (case.sent, case.dropped, case.filter.held) == ([], [], 1)
    case.end(root("GET /health"))
    assert (case.sent, case.dropped, case.filter.held) == ([], ["query", "GET /health"], 0)
    case.end(span("late"))
    assert case.dropped[-1] == "late"


def test_spans_before_the_first_genai_span_are_sent_in_order() -> None:
    case = Filtering()
    case.end(span("auth"))
    case.end(span("query"))
    case.end(span("chat", attributes=GENAI), span("render"))
    case.end(root("POST /ask"))
    assert case.sent == ["auth", "query", "chat", "render", "POST /ask"]
    assert (case.dropped, case.filter.held) == ([], 0)


def test_a_batch_is_searched_before_any_of_its_spans_is_dropped() -> None:
    case = Filtering()
    case.end(root("POST /ask"), span("chat", attributes=GENAI))
    assert (case.sent, case.dropped) == (["POST /ask", "chat"], [])


def test_traces_do_not_disturb_each_other() -> None:
    case = Filtering()
    case.end(span("a", 1), span("b", 2), root("root a", 1), span("chat", 2, attributes=GENAI))
    assert (case.sent, case.dropped) == (["b", "chat"], ["a", "root a"])


def test_a_child_of_another_process_is_a_root_here() -> None:
    case = Filtering()
    case.end(span("query"), span("rpc", remote=True))
    assert case.dropped == ["query", "rpc"]


def test_a_root_waits_for_the_open_spans_of_its_trace() -> None:
    case = Filtering()
    case.open = {1}
    case.end(root("request"))
    assert (case.sent, case.dropped) == ([], [])
    case.end(span("chat", attributes=GENAI))
    assert case.sent == ["request", "chat"]

    case.open = {2}
    case.end(root("request 2", 2))
    case.open = set()
    case.end(root("other", 3))
    assert case.dropped == ["request 2", "other"]


def test_a_trace_is_complete_only_when_spans_that_had_ended_before_are_added() -> None:
    case = Filtering()
    case.open = {1}
    case.filter.begin()
    assert case.filter.add([root("request"), span("query")]).dropped == []
    case.open = set()  # The last span of the trace ends now, and is in the queue.
    assert case.filter.conclude().dropped == []
    case.end(span("chat", attributes=GENAI))
    assert (case.sent, case.dropped) == (["request", "query", "chat"], [])


def test_a_dropped_root_comes_back_when_its_trace_goes_on_with_genai() -> None:
    case = Filtering()
    case.end(root("request"))
    assert case.dropped == ["request"]
    case.end(span("chat", attributes=GENAI))
    assert (case.revived, case.sent) == (["request"], ["chat"])
    case.end(span("more"))
    assert (case.revived, case.sent) == (["request"], ["chat", "more"])


def test_a_trace_that_is_held_too_long_is_sent_with_all_later_spans() -> None:
    case = Filtering()
    case.end(span("step 1"))
    case.now = 301.0
    case.end(span("of another trace", 2))
    assert case.sent == ["step 1"]
    case.end(span("step 2"), root("root"))
    assert case.sent == ["step 1", "step 2", "root"]
    assert case.dropped == []


def test_beyond_the_limit_the_oldest_trace_is_sent() -> None:
    case = Filtering(max_spans=3)
    case.end(span("a 1", 1), span("b 1", 2), span("a 2", 1))
    assert case.sent == []
    case.end(span("b 2", 2))
    assert case.sent == ["a 1", "a 2"]
    assert case.filter.held == 2


def test_at_the_end_held_spans_are_returned() -> None:
    case = Filtering()
    case.end(span("a", 1), span("b", 2))
    found = case.filter.close()
    assert [span.name for span in found.dropped] == ["a", "b"]
    assert (found.kept, case.filter.held) == ([], 0)


def test_a_trace_that_another_processor_wants_needs_no_further_span() -> None:
    case = Filtering()
    case.open = {1}
    case.end(span("query"), root("request"))
    case.filter.keep([1])
    case.open = set()
    case.end()
    assert (case.sent, case.dropped, case.filter.held) == (["query", "request"], [], 0)


def test_a_trace_that_another_processor_wants_is_not_dropped_at_the_end() -> None:
    case = Filtering()
    case.end(span("query"))
    case.filter.keep([1])
    found = case.filter.close()
    assert ([span.name for span in found.kept], found.dropped) == (["query"], [])


def test_the_dropped_root_of_a_trace_that_another_processor_wants_comes_back() -> None:
    case = Filtering()
    case.end(root("request"))
    case.filter.keep([1])
    case.end()
    assert (case.revived, case.sent) == (["request"], [])


def test_memory_is_bounded() -> None:
    case = Filtering(kept_traces=100, dropped_traces=10)
    case.open = {1}
    for trace in range(1, 1_001):
        case.end(span("chat", trace, attributes=GENAI))
        case.end(root("request", 10_000 + trace))
    assert len(case.filter._kept) <= 101
    assert len(case.filter._dropped) <= 10
    # A trace with an open span is not forgotten.
    case.end(root("long", 1))
    assert case.sent[-1] == "long"
