# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Traces that wait for what may follow, long traces that are parked, and labels of roots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from mlflow_bridge._spans.trace_buffer import (
    BufferLimits,
    Decision,
    Sorted,
    Spans,
    TraceBuffer,
    TracePolicy,
)

SAMPLED = TraceFlags(TraceFlags.SAMPLED)


def span(name: str, trace: int = 1, **attributes: Any) -> ReadableSpan:
    return ReadableSpan(
        name,
        context=SpanContext(trace, hash(name) & 0xFFFF | 1, False, SAMPLED),
        parent=SpanContext(trace, 99, False, SAMPLED),
        attributes=attributes,
    )


def root(trace: int = 1, **attributes: Any) -> ReadableSpan:
    return ReadableSpan(
        "root", context=SpanContext(trace, 99, False, SAMPLED), attributes=attributes
    )


@dataclass
class Found:
    score: float | None = None
    wanted: bool = False


class KeepScored(TracePolicy[Found]):
    """Keeps traces with a low score, for which a complete trace waits."""

    grace_seconds = 30.0
    has_labels = True

    def __init__(self) -> None:
        self.labelled: list[str] = []
        self.concluded: list[tuple[list[str], bool]] = []

    def new_facts(self) -> Found:
        return Found()

    def note(self, span: ReadableSpan, facts: Found) -> Decision | None:
        attributes: Any = span.attributes or {}
        facts.score = attributes.get("score", facts.score)
        facts.wanted = facts.wanted or "wanted" in attributes
        return None

    def conclude(self, facts: Found, spans: Spans, *, complete: bool) -> Decision:
        self.concluded.append(([one.name for one in spans()], complete))
        is_low = facts.score is not None and facts.score < 0.5
        return Decision.KEEP if facts.wanted or is_low else Decision.REFUSE

    def waits(self, facts: Found) -> bool:
        return facts.score is None and not facts.wanted

    def label(self, root: ReadableSpan, facts: Found) -> None:
        self.labelled.append(root.name)


class Disk:
    """Parking in memory."""

    def __init__(self) -> None:
        self.parked: dict[int, list[ReadableSpan]] = {}
        self.delivered: list[int] = []
        self.discarded: list[int] = []
        self.is_full = False

    def park(self, trace_id: int, spans: Sequence[ReadableSpan]) -> bool:
        if self.is_full:
            return False
        self.parked.setdefault(trace_id, []).extend(spans)
        return True

    def spans_of(self, trace_id: int) -> Sequence[ReadableSpan]:
        return self.parked[trace_id]

    def deliver(self, trace_id: int) -> None:
        self.delivered.append(trace_id)

    def discard(self, trace_id: int) -> None:
        self.discarded.append(trace_id)


class Case:
    def __init__(self, **limits: Any) -> None:
        self.policy = KeepScored()
        self.disk = Disk()
        self.open: set[int] = set()
        self.now = 0.0
        self.kept: list[str] = []
        self.dropped: list[str] = []
        self.parked: list[str] = []
        self.buffer = TraceBuffer(
            self.policy,
            BufferLimits(**{"spans": 100, **limits}),
            open_traces=lambda: self.open,
            clock=lambda: self.now,
            parking=self.disk,
        )

    def add(self, *spans: ReadableSpan, without_wait: bool = False) -> None:
        self.buffer.begin()
        for found in (self.buffer.add(spans), self.buffer.conclude(without_wait=without_wait)):
            self.take(found)

    def take(self, found: Sorted) -> None:
        self.kept += [span.name for span in found.kept]
        self.dropped += [span.name for span in found.dropped]
        self.parked += [span.name for span in found.parked]


def test_a_complete_trace_waits_for_its_score() -> None:
    case = Case()
    case.add(span("a"), root())
    case.now = 29.0
    case.add()
    assert (case.kept, case.dropped) == ([], [])
    case.add(span("score", score=0.1))
    assert case.kept == ["a", "root", "score"]
    assert case.policy.labelled == ["root"]


def test_a_good_score_ends_the_wait() -> None:
    case = Case()
    case.add(span("a"), root())
    case.add(span("score", score=0.9))
    assert (case.kept, case.dropped) == ([], ["a", "root", "score"])


def test_the_wait_ends_without_a_score() -> None:
    case = Case()
    case.add(root(1))
    case.now = 10.0
    case.add(root(2))
    case.now = 30.0
    case.add()
    assert case.dropped == ["root"]
    case.now = 40.0
    case.add()
    assert case.dropped == ["root", "root"]
    assert case.buffer.held == 0


def test_a_flush_ends_the_wait() -> None:
    case = Case()
    case.add(span("a"), root())
    case.add(without_wait=True)
    assert case.dropped == ["a", "root"]


def test_a_wanted_trace_does_not_wait() -> None:
    case = Case()
    case.add(span("a", wanted=True), root())
    assert case.kept == ["a", "root"]


def test_a_late_child_of_a_refused_trace_is_dropped() -> None:
    case = Case()
    case.add(root(score=0.9))
    case.add(span("late", wanted=True, score=0.0))
    assert (case.kept, case.dropped) == ([], ["root", "late"])
    assert case.buffer.refused_traces() == [1]


def test_refused_traces_are_handed_over() -> None:
    case = Case()
    case.buffer.refuse([1])
    case.add(span("late", wanted=True))
    assert case.dropped == ["late"]


def test_refused_traces_are_bounded() -> None:
    case = Case(refused_traces=2)
    for trace in (1, 2, 3):
        case.add(root(trace, score=0.9))
    assert case.buffer.refused_traces() == [2, 3]


def test_the_oldest_open_trace_is_parked_beyond_the_limit() -> None:
    case = Case(spans=2)
    case.open = {1, 2}
    case.add(span("a"), span("b"))
    case.add(span("c", 2))
    assert (case.parked, case.kept, case.dropped, case.buffer.held) == (["a", "b"], [], [], 1)
    case.add(span("d", wanted=True))
    assert case.parked == ["a", "b", "d"]
    case.open = {2}
    case.add(root())
    assert (case.kept, case.disk.delivered, case.disk.discarded) == (["root"], [1], [])
    assert case.policy.concluded == [(["a", "b", "d", "root"], True)]
    assert case.policy.labelled == ["root"]
    assert case.buffer.held == 1


def test_a_parked_trace_that_is_not_wanted_is_discarded() -> None:
    case = Case(spans=1)
    case.open = {1}
    case.add(span("a"), span("b"))
    case.open = set()
    case.add(root(score=1.0))
    assert (case.dropped, case.disk.delivered, case.disk.discarded) == (["root"], [], [1])


def test_an_old_open_trace_is_parked() -> None:
    case = Case(age_seconds=300.0)
    case.open = {1}
    case.add(span("a"))
    case.now = 301.0
    case.add()
    assert case.parked == ["a"]


def test_a_trace_that_cannot_be_parked_is_decided() -> None:
    case = Case(spans=1)
    case.open = {1}
    case.disk.is_full = True
    case.add(span("a", wanted=True), span("b"))
    assert (case.kept, case.parked) == (["a", "b"], [])
    assert case.policy.concluded == [(["a", "b"], False)]


def test_a_full_disk_keeps_further_spans_of_a_parked_trace_in_memory() -> None:
    case = Case(spans=1)
    case.open = {1}
    case.add(span("a"), span("b"))
    case.disk.is_full = True
    case.add(span("c", wanted=True))
    assert (case.parked, case.buffer.held) == (["a", "b"], 1)
    case.open = set()
    case.add(root())
    assert (case.kept, case.disk.delivered) == (["c", "root"], [1])


def test_parked_traces_are_bounded() -> None:
    case = Case(spans=0, parked_traces=2)
    case.open = {1, 2, 3}
    for trace in (1, 2, 3):
        case.add(span(f"span {trace}", trace, wanted=True))
    assert (case.disk.delivered, case.buffer.held) == ([1], 0)
    assert case.policy.concluded == [(["span 1"], False)]


def test_roots_that_never_end_are_bounded() -> None:
    case = Case(spans=10, traces=50, parked_traces=5)
    case.open = set(range(1000))
    for trace in range(1000):
        case.add(span("a", trace))
    assert case.buffer.held <= 10
    assert len(case.disk.parked) - len(case.disk.discarded) <= 5
    assert len(case.dropped) + len(case.disk.discarded) >= 900


def test_the_end_decides_on_all_traces() -> None:
    case = Case(spans=1)
    case.open = {1, 2}
    case.add(span("a", wanted=True), span("b"))
    case.add(span("c", 2))
    case.take(case.buffer.close())
    assert (case.kept, case.dropped, case.disk.delivered) == ([], ["c"], [1])


def test_a_successor_gets_the_held_spans_and_parked_traces_are_decided() -> None:
    case = Case(spans=1)
    case.open = {1, 2}
    case.add(span("a", wanted=True), span("b"))
    case.add(span("c", 2))
    found = case.buffer.close(decides=False)
    assert [one.name for one in found.undecided] == ["c"]
    assert (case.disk.delivered, case.buffer.kept_traces()) == ([1], [1])


def test_a_root_without_a_slot_lets_the_trace_be_decided() -> None:
    case = Case()
    case.add(span("a", wanted=True))
    case.buffer.note(root())
    case.add()
    assert case.kept == ["a"]
