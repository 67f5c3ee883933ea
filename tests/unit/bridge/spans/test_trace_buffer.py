# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The buffer of undecided traces, with policies other than the filter of traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.trace_buffer import (
    BufferLimits,
    Decision,
    Sorted,
    Spans,
    TraceBuffer,
    TracePolicy,
    trace_id_of,
)

SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def span(
    name: str, trace: int = 1, *, failed: bool = False, root: bool = False, **attributes: Any
) -> ReadableSpan:
    context = SpanContext(trace, hash(name) & 0xFFFF | 1, False, SAMPLED)
    return ReadableSpan(
        name,
        context=context,
        parent=None if root else SpanContext(trace, 99, False, SAMPLED),
        attributes=attributes,
        status=Status(StatusCode.ERROR if failed else StatusCode.OK),
    )


@dataclass
class Seen:
    spans: int = 0
    model: str | None = None


class KeepFailures(TracePolicy[Seen]):
    """Tail sampling: a trace with an error is kept, and so is every trace of many spans."""

    def new_facts(self) -> Seen:
        return Seen()

    def note(self, span: ReadableSpan, facts: Seen) -> Decision | None:
        facts.spans += 1
        return Decision.KEEP if span.status.status_code is StatusCode.ERROR else None

    def conclude(self, facts: Seen, spans: Spans, *, complete: bool) -> Decision:
        return Decision.KEEP if facts.spans > 3 else Decision.DROP


@dataclass
class LendModel(TracePolicy[Seen]):
    """Lending: every span passes at once, and the root learns the model of its descendants."""

    lent: dict[str, str | None] = field(default_factory=dict[str, str | None])

    def new_facts(self) -> Seen:
        return Seen()

    def note(self, span: ReadableSpan, facts: Seen) -> Decision:
        facts.model = facts.model or (span.attributes or {}).get("model")  # type: ignore[assignment]
        if is_local_root(span):
            self.lent[span.name] = facts.model
        return Decision.KEEP

    def conclude(self, facts: Seen, spans: Spans, *, complete: bool) -> Decision:
        raise AssertionError("no trace is undecided")


class Case:
    def __init__(self, policy: Any, **limits: Any) -> None:
        self.open: set[int] = set()
        self.now = 0.0
        self.buffer: TraceBuffer[Any] = TraceBuffer(
            policy,
            BufferLimits(**{"spans": 100, **limits}),
            open_traces=lambda: self.open,
            clock=lambda: self.now,
        )

    def add(self, *spans: ReadableSpan) -> tuple[list[str], list[str], list[str]]:
        self.buffer.begin()
        kept, dropped, revived = names(self.buffer.add(spans))
        more_kept, more_dropped, more_revived = names(self.buffer.conclude())
        return kept + more_kept, dropped + more_dropped, revived + more_revived


def names(found: Sorted) -> tuple[list[str], list[str], list[str]]:
    lists: tuple[Sequence[ReadableSpan], ...] = (found.kept, found.dropped, found.revived)
    kept, dropped, revived = ([span.name for span in spans] for spans in lists)
    return kept, dropped, revived


def test_tail_sampling_keeps_a_trace_from_its_first_error_on() -> None:
    case = Case(KeepFailures())
    assert case.add(span("a"), span("b")) == ([], [], [])
    assert case.add(span("c", failed=True), span("d")) == (["a", "b", "c", "d"], [], [])
    assert case.add(span("root", root=True)) == (["root"], [], [])


def test_tail_sampling_decides_by_the_facts_of_the_trace() -> None:
    case = Case(KeepFailures())
    assert case.add(span("a"), span("root", root=True)) == ([], ["a", "root"], [])
    many = [span(name, 2) for name in "abc"]
    assert case.add(*many, span("root", 2, root=True)) == (["a", "b", "c", "root"], [], [])


def test_an_error_after_the_decision_brings_back_the_root() -> None:
    case = Case(KeepFailures())
    case.add(span("root", root=True))
    assert case.add(span("late", failed=True)) == (["late"], [], ["root"])
    assert case.add(span("later")) == (["later"], [], [])


def test_a_span_that_is_delivered_in_another_way_counts_for_its_trace() -> None:
    case = Case(KeepFailures())
    case.buffer.note(span("elsewhere", failed=True))
    assert case.add(span("root", root=True)) == (["root"], [], [])
    for _ in range(3):
        case.buffer.note(span("elsewhere", 2))
    assert case.add(span("root", 2, root=True)) == (["root"], [], [])
    assert case.buffer.held == 0


def test_a_root_learns_from_spans_that_did_not_wait_for_it() -> None:
    policy = LendModel()
    case = Case(policy)
    assert case.add(span("chat", model="gpt")) == (["chat"], [], [])
    assert case.buffer.held == 0
    assert case.add(span("request", root=True)) == (["request"], [], [])
    assert policy.lent == {"request": "gpt"}
    assert case.buffer.facts(1) == Seen(model="gpt")
    assert case.buffer.facts(2) is None


@pytest.mark.parametrize(
    ("limits", "spans"),
    [
        ({"spans": 2}, [span("a", 1), span("b", 2), span("c", 2)]),
        ({"bytes": 10_000}, [span("a", 1, text="x" * 6_000), span("b", 2, text="x" * 6_000)]),
        ({"traces": 1}, [span("a", 1), span("b", 2)]),
    ],
    ids=["spans", "bytes", "traces"],
)
def test_beyond_a_limit_the_policy_decides_on_the_oldest_trace(
    limits: dict[str, int], spans: list[ReadableSpan]
) -> None:
    case = Case(KeepFailures(), **limits)
    assert case.add(*spans) == ([], ["a"], [])
    assert case.buffer.held == len(spans) - 1


def test_a_trace_is_held_for_a_limited_time_although_no_further_span_is_added() -> None:
    case = Case(KeepFailures(), age_seconds=10.0)
    case.add(span("a"))
    case.now = 10.0
    assert case.add() == ([], [], [])
    case.now = 10.1
    assert case.add() == ([], ["a"], [])


def test_the_root_is_decided_when_the_last_open_span_is_gone() -> None:
    case = Case(KeepFailures())
    case.open = {1}
    assert case.add(span("root", root=True)) == ([], [], [])
    case.open = set()
    assert case.add() == ([], ["root"], [])


def test_a_policy_that_raises_loses_no_trace() -> None:
    class Raises(KeepFailures):
        def note(self, span: ReadableSpan, facts: Seen) -> Decision | None:
            raise RuntimeError("a bug")

    case = Case(Raises())
    assert case.add(span("a"), span("b", 2)) == (["a", "b"], [], [])


def test_each_span_leaves_the_buffer_once() -> None:
    case = Case(KeepFailures(), spans=7, traces=3, kept_traces=4, dropped_traces=2)
    left: list[str] = []
    given = [
        span(f"{trace} {n}", trace, failed=trace * n % 11 == 10, root=n == trace % 5)
        for n in range(6)
        for trace in range(1, 20)
    ]
    for one in given:
        case.now += 30.0
        kept, dropped, _ = case.add(one)
        left += kept + dropped
        assert case.buffer.held <= 7
    found = case.buffer.close()
    left += [span.name for span in [*found.kept, *found.dropped]]
    assert sorted(left) == sorted(span.name for span in given)
    assert case.buffer.held == 0


def test_a_span_without_ids_has_a_trace_of_its_own() -> None:
    assert trace_id_of(ReadableSpan("no ids")) == 0
