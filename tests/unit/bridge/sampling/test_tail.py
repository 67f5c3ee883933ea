# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from mlflow_bridge import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._spans.annotation import Annotation
from mlflow_bridge._spans.lent_values import lent_to
from mlflow_bridge._spans.trace_buffer import BufferLimits, TraceBuffer
from mlflow_bridge.sampling import (
    KeepRule,
    TailSampling,
    agent_exhausted,
    cost_above,
    errors,
    new_program,
    parse_failures,
    predicate,
    score_below,
    slower_than,
    tail_policy,
    tokens_above,
)
from mlflow_bridge.sampling.keys import is_in_share
from mlflow_bridge.sampling.tail_policy import TailPolicy
from mlflow_bridge.traces.finished import FinishedTrace

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
SECOND = 1_000_000_000
DROPPED_BY_RATE = 2**63 - 1
"""The number of a trace id that no small share keeps."""
REASON = "mlflow.traceTag.dspy.sampling.reason"
WEIGHT = "mlflow.traceTag.dspy.sampling.weight"


def span(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    trace: int = DROPPED_BY_RATE,
    root: bool = False,
    parent: int = 1,
    own: int | None = None,
    failed: bool = False,
    seconds: float = 1.0,
    events: tuple[Event, ...] = (),
) -> ReadableSpan:
    span_id = own or (1 if root else hash(name) & 0xFFFF | 2)
    return ReadableSpan(
        name,
        context=SpanContext(trace, span_id, False, SAMPLED),
        parent=None if root else SpanContext(trace, parent, False, SAMPLED),
        attributes={"dspy.operation": "module", **(attributes or {})},
        status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
        events=events,
        start_time=SECOND,
        end_time=SECOND + int(seconds * SECOND),
    )


def chat(**attributes: Any) -> ReadableSpan:
    given = {key.replace("__", "."): value for key, value in attributes.items()}
    return span("chat", {"dspy.operation": "lm", **given})


def feedback(name: str, value: Any, trace: int = DROPPED_BY_RATE) -> ReadableSpan:
    content = {"assessment_name": name, "feedback": {"value": value}}
    return Annotation(f"tr-{trace:032x}", assessment=content).as_span(trace)


class Tail:
    """A trace buffer with tail sampling, and what it passed on."""

    def __init__(self, *rules: KeepRule, rate: float = 0.0, only_genai: bool = True) -> None:
        self.now = 0.0
        self.open: set[int] = set()
        sampling = TailSampling(keep=list(rules), rate=rate)
        self.buffer = TraceBuffer(
            TailPolicy(sampling, only_genai=only_genai),
            BufferLimits(spans=10_000),
            open_traces=lambda: self.open,
            clock=lambda: self.now,
        )
        self.kept: list[ReadableSpan] = []
        self.dropped: list[ReadableSpan] = []

    def end(self, *spans: ReadableSpan) -> None:
        self.buffer.begin()
        for found in (self.buffer.add(spans), self.buffer.conclude()):
            self.kept += found.kept
            self.dropped += found.dropped

    def tags(self) -> list[tuple[Any, Any]]:
        roots = [one for one in self.kept if one.parent is None]
        return [(lent_to(one).get(REASON), lent_to(one).get(WEIGHT)) for one in roots]

    def reason(self) -> Any:
        """The reason of the only trace; None if it is dropped."""
        if not self.kept:
            assert self.dropped
            return None
        assert not self.dropped
        [(reason, weight)] = self.tags()
        assert weight == "1"
        return reason


def exhausted(how: str) -> ReadableSpan:
    return span("agent", {"dspy.agent.termination": how})


@pytest.mark.parametrize(
    ("rule", "met", "unmet", "reason"),
    [
        (errors(), [span("a", failed=True)], [span("a")], "error"),
        (
            cost_above(usd=0.5),
            [chat(dspy__lm__cost__total=0.3), chat(dspy__lm__cost__total=0.6)],
            [chat(dspy__lm__cost__total=0.5)],
            "cost",
        ),
        (
            tokens_above(100),
            [chat(gen_ai__usage__input_tokens=90, gen_ai__usage__output_tokens=11)],
            [chat(gen_ai__usage__input_tokens=90, gen_ai__usage__output_tokens=10)],
            "tokens",
        ),
        (
            parse_failures(),
            [span("adapter", {"dspy.adapter.parse.error_type": "AdapterParseError"})],
            [span("adapter", {"dspy.adapter.parse.fields": 2})],
            "parse_failure",
        ),
        (agent_exhausted(), [exhausted("max_iters")], [exhausted("finish")], "agent_exhausted"),
        (
            score_below("correct", 0.5),
            [feedback("correct", False)],
            [feedback("correct", True), feedback("other", 0)],
            "score:correct",
        ),
        (
            score_below("correct", 0.5),
            [
                span(
                    "metric",
                    events=(
                        Event(
                            "gen_ai.evaluation.result",
                            {
                                "gen_ai.evaluation.name": "correct",
                                "gen_ai.evaluation.score.value": 0.2,
                            },
                        ),
                    ),
                )
            ],
            [feedback("correct", 0.5)],
            "score:correct",
        ),
    ],
)
def test_a_rule(
    rule: KeepRule, met: list[ReadableSpan], unmet: list[ReadableSpan], reason: str
) -> None:
    keeps, drops = Tail(rule), Tail(rule)
    keeps.end(*met, span("root", root=True))
    drops.end(*unmet, span("root", root=True))
    assert (keeps.reason(), drops.reason()) == (reason, None)
    assert len(keeps.kept) == len(met) + 1
    assert len(drops.dropped) == len(unmet) + 1


@pytest.mark.parametrize(("seconds", "reason"), [(5.0, None), (5.1, "slow")])
def test_a_slow_trace(seconds: float, reason: str | None) -> None:
    tail = Tail(slower_than(seconds=5))
    tail.end(span("part", seconds=60), span("root", root=True, seconds=seconds))
    assert tail.reason() == reason


def test_the_first_traces_of_a_new_program() -> None:
    tail = Tail(new_program(first=2))
    for trace, program in enumerate("aabaab"):
        tail.end(span("root", {"dspy.program.hash": program}, trace=-trace % 2**63, root=True))
    assert len(tail.kept) == 4
    assert {reason for reason, _ in tail.tags()} == {"new_program"}


def test_a_call_that_two_instrumentations_report_counts_once() -> None:
    tail = Tail(tokens_above(100))
    usage = {"gen_ai.usage.input_tokens": 60}
    inner = ReadableSpan(
        "chat gpt",
        context=SpanContext(DROPPED_BY_RATE, 8, False, SAMPLED),
        parent=SpanContext(DROPPED_BY_RATE, 7, False, SAMPLED),
        attributes=usage,
    )
    tail.end(inner, span("lm", {"dspy.operation": "lm", **usage}, own=7), span("r", root=True))
    assert tail.reason() is None


def test_the_share_of_other_traces_is_the_head_samplers() -> None:
    tail = Tail(errors(), rate=0.25)
    numbers = [(number * 2**62) // 250 for number in range(1000)]
    for number in numbers:
        tail.end(span("root", trace=number or 1, root=True))
    kept = [one.context.trace_id for one in tail.kept if one.context is not None]
    assert kept == [number or 1 for number in numbers if is_in_share(number or 1, 0.25)]
    assert set(tail.tags()) == {("rate", "4")}


def test_head_and_tail_shares_do_not_multiply() -> None:
    tail = Tail(errors(), rate=0.25)
    half = {"dspy.sampling.probability": 0.5}
    tail.end(span("root", half, trace=2**61, root=True))
    tail.end(
        span("a", trace=2**63 - 5, failed=True), span("root", half, trace=2**63 - 5, root=True)
    )
    tail.end(span("root", {"dspy.sampling.probability": 0.1}, trace=2**60, root=True))
    assert tail.tags() == [("rate", "4"), ("error", "2"), ("rate", "10")]


def test_the_key_of_the_head_sampler_counts() -> None:
    tail = Tail(rate=0.25)
    attributes = {"dspy.sampling.probability": 0.5, "dspy.sampling.randomness": f"{5:016x}"}
    tail.end(span("a"), span("root", attributes, root=True))
    assert tail.tags() == [("rate", "4")]


@pytest.mark.parametrize("operation", ["evaluate", "example", "compile"])
def test_an_evaluation_is_kept(operation: str) -> None:
    tail = Tail(score_below("correct", 0.5))
    tail.end(span("run", {"dspy.operation": operation}), span("root", root=True))
    assert tail.reason() == "evaluation"


def test_a_trace_without_dspy_is_dropped_whatever_failed() -> None:
    tail = Tail(errors(), rate=1.0)
    foreign = ReadableSpan(
        "GET /",
        context=SpanContext(3, 1, False, SAMPLED),
        status=Status(StatusCode.ERROR),
    )
    tail.end(foreign)
    assert (tail.kept, tail.dropped) == ([], [foreign])


@pytest.mark.parametrize(("failed", "kept"), [(True, ["late"]), (False, [])])
def test_a_program_that_starts_after_the_root_of_a_web_framework(
    failed: bool, kept: list[str]
) -> None:
    tail = Tail(errors())
    tail.end(ReadableSpan("POST /", context=SpanContext(DROPPED_BY_RATE, 1, False, SAMPLED)))
    tail.end(span("late", failed=failed))
    tail.end(span("later", failed=True))
    assert [one.name for one in tail.kept][: len(kept)] == kept
    assert len(tail.kept) == (2 if failed else 0)


def test_all_traces_are_sampled_without_the_filter() -> None:
    tail = Tail(errors(), only_genai=False)
    tail.end(
        ReadableSpan(
            "GET /",
            context=SpanContext(DROPPED_BY_RATE, 1, False, SAMPLED),
            status=Status(StatusCode.ERROR),
        )
    )
    assert tail.reason() == "error"


def test_late_children_follow_the_decision() -> None:
    tail = Tail(errors())
    tail.end(span("a", failed=True), span("root", root=True))
    tail.end(span("late"))
    tail.end(span("root", trace=2**62 - 1, root=True))
    tail.end(span("late", trace=2**62 - 1, failed=True))
    assert [one.name for one in tail.kept] == ["a", "root", "late"]
    assert [one.name for one in tail.dropped] == ["root", "late"]


def test_a_late_score_within_the_grace() -> None:
    tail = Tail(score_below("correct", 0.5), rate=1.0)
    tail.end(span("root", root=True))
    tail.now = 29.0
    tail.end(feedback("correct", 0.4))
    assert tail.tags() == [("score:correct", "1")]
    assert len(tail.kept) == 2


def test_without_a_late_score_the_rate_decides() -> None:
    tail = Tail(score_below("correct", 0.5), rate=1.0)
    tail.end(span("root", root=True))
    tail.now = 30.0
    tail.end()
    assert tail.tags() == [("rate", "1")]


def test_a_predicate_gets_the_trace() -> None:
    seen: list[FinishedTrace] = []

    def is_wanted(trace: FinishedTrace) -> bool:
        seen.append(trace)
        return trace.root.name == "wanted"

    tail = Tail(errors(), predicate(is_wanted))
    tail.end(span("root", root=True))
    tail.end(span("wanted", trace=2**62 - 1, root=True))
    tail.end(span("failed", trace=2**62 - 3, root=True, failed=True))
    assert tail.tags() == [("predicate", "1"), ("error", "1")]
    assert [(trace.root.name, trace.complete) for trace in seen] == [
        ("root", True),
        ("wanted", True),
    ]


def test_a_predicate_that_raises_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fails(trace: FinishedTrace) -> bool:
        raise ValueError("the predicate")

    tail = Tail(predicate(fails))
    tail.end(span("root", root=True))
    assert tail.reason() is None
    assert "fails" in caplog.text


def test_a_predicate_that_hangs_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_policy, "_PREDICATE_SECONDS", 0.05)
    release, called = threading.Event(), 0

    def hangs(trace: FinishedTrace) -> bool:
        nonlocal called
        called += 1
        release.wait(60)
        return True

    tail = Tail(predicate(hangs))
    tail.end(span("root", root=True))
    tail.end(span("root", trace=2**62 - 1, root=True))
    release.set()
    assert (tail.kept, len(tail.dropped), called) == ([], 2, 1)


def test_a_rule_that_raises_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(KeepRule):
        def note(self, span: ReadableSpan, state: Any) -> Any:
            raise ValueError("secret")

        def is_met(self, state: Any, seconds: float) -> bool:
            raise ValueError("secret")

    tail = Tail(Broken("broken"), errors())
    tail.end(span("root", root=True, failed=True))
    assert tail.reason() == "error"
    assert "'broken' raised ValueError" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TailSampling(keep=errors()), "keep is Errors('error'); accepted: a list of rules"),  # type: ignore[arg-type]
        (lambda: TailSampling(keep=["errors"]), "accepted: a list of rules"),  # type: ignore[list-item]
        (lambda: TailSampling(rate=2), "rate is 2; accepted: a number, 0 to 1"),
        (lambda: TailSampling(rate=True), "rate is True; accepted: a number, 0 to 1"),
        (lambda: TailSampling(grace_seconds=-1), "grace_seconds is -1; accepted: a number"),
        (lambda: slower_than(seconds=-1), "slower_than: seconds is -1; accepted: a number"),
        (lambda: cost_above(usd="1"), "cost_above: usd is '1'; accepted: a number"),  # type: ignore[arg-type]
        (lambda: tokens_above(float("nan")), "tokens_above: count is nan"),  # type: ignore[arg-type]
        (lambda: score_below("", 1), "score_below: metric is ''; accepted: a name"),
        (lambda: new_program(first=0), "new_program: first is 0; accepted: a number, at least 1"),
        (lambda: predicate(1), "predicate: function is 1; accepted: a function"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_value_raises(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert message in str(raised.value)


def test_the_settings_make_the_rules() -> None:
    assert TailSampling.from_config(MLflowDSPyConfig()) is None
    config = MLflowDSPyConfig(
        tail_rate=0.01,
        tail_slower_than_seconds=5,
        tail_cost_above_usd=0.1,
        tail_tokens_above=1000,
        tail_score_below="correct=0.5,safe=1",
        tail_parse_failures=True,
        tail_new_program_first=20,
        tail_agent_exhausted=True,
        tail_predicate="builtins:bool",
        tail_grace_seconds=7,
    )
    tail = TailSampling.from_config(config)
    assert tail is not None
    assert (tail.rate, tail.grace_seconds) == (0.01, 7.0)
    assert [rule.reason for rule in tail.keep] == [
        "error",
        "agent_exhausted",
        "parse_failure",
        "score:correct",
        "score:safe",
        "cost",
        "tokens",
        "slow",
        "new_program",
        "predicate",
    ]
    no_errors = TailSampling.from_config(MLflowDSPyConfig(tail_keep_errors=False, tail_rate=0.5))
    assert no_errors is not None
    assert no_errors.keep == ()
