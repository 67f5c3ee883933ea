# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tail sampling as the policy of a `TraceBuffer`."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import finalize

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.annotation import is_annotation, is_program
from mlflow_bridge._spans.genai import is_of_genai
from mlflow_bridge._spans.lent_values import lend
from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.names import (
    SAMPLING_PROBABILITY,
    SAMPLING_RANDOMNESS,
    SAMPLING_REASON,
    SAMPLING_WEIGHT,
    TRACE_TAG_PREFIX,
)
from mlflow_bridge._spans.trace_buffer import Decision, Spans, TracePolicy, trace_id_of
from mlflow_bridge.sampling.keys import is_in_share
from mlflow_bridge.sampling.rules import KeepRule, Predicate
from mlflow_bridge.sampling.tail import TailSampling
from mlflow_bridge.traces.finished import FinishedTrace
from mlflow_bridge.traces.workers import Worker
from opentelemetry.instrumentation.dspy import semconv

_logger = logging.getLogger(__name__)

_RUNS: Final = (
    semconv.Operations.EVALUATE,
    semconv.Operations.EXAMPLE,
    semconv.Operations.COMPILE,
)
_PREDICATE_SECONDS: Final = 5.0


@dataclass(slots=True)
class TailFacts:
    """Facts of a trace. Its spans are not held here."""

    states: list[Any]
    """What each rule remembers."""
    number: int = 0
    """The trace id, or the number of its sampling key."""
    share: float = 1.0
    """Probability with which the sampler of the tracer provider has recorded the trace."""
    is_genai: bool = False
    is_run: bool = False
    start: int | None = None
    end: int = 0
    """Start and end of the spans so far, in nanoseconds since 1970."""
    root_seconds: float | None = None
    """Duration of the local root; of several, the longest."""
    reason: str | None = None
    weight: float = 1.0
    is_foreign: bool = False
    """Whether the trace was dropped because it has no DSPy or GenAI span."""

    @property
    def seconds(self) -> float:
        """Duration of the root; without a root, of the spans so far."""
        if self.root_seconds is not None:
            return self.root_seconds
        return 0.0 if self.start is None else (self.end - self.start) / 1e9


class TailPolicy(TracePolicy[TailFacts]):
    """Keeps traces by the rules of a `TailSampling`, and a share of all others.

    Args:
        sampling: The rules and the share.
        only_genai: Whether traces without a DSPy or GenAI span are dropped.
    """

    has_labels = True

    def __init__(self, sampling: TailSampling, *, only_genai: bool) -> None:
        self._rules: Sequence[KeepRule] = sampling.keep
        self._rate = sampling.rate
        self._only_genai = only_genai
        self._log = RateLimitedLogger(_logger)
        waits = any(rule.waits for rule in self._rules)
        self.grace_seconds = sampling.grace_seconds if waits else 0.0
        self._judges = {
            index: _Judge(rule.function)
            for index, rule in enumerate(self._rules)
            if isinstance(rule, Predicate)
        }
        for judge in self._judges.values():
            finalize(self, judge.close)

    def new_facts(self) -> TailFacts:
        return TailFacts([self._guarded(rule, rule.new_state) for rule in self._rules])

    def note(self, span: ReadableSpan, facts: TailFacts) -> Decision | None:
        if is_program(span):
            return Decision.KEEP
        if facts.reason is not None:
            return None
        for index, rule in enumerate(self._rules):
            state = facts.states[index]
            note = functools.partial(rule.note, span, state)
            facts.states[index] = self._guarded(rule, note, default=state)
        facts.number = facts.number or trace_id_of(span)
        if not is_annotation(span):
            _add(span, facts)
        # A span of DSPy that begins after the root of a web framework has ended.
        return self._decision(facts, ()) if facts.is_foreign and facts.is_genai else None

    def conclude(self, facts: TailFacts, spans: Spans, *, complete: bool) -> Decision:
        if complete and self._only_genai and not facts.is_genai:
            facts.is_foreign = True
            return Decision.DROP
        return self._decision(facts, spans)

    def waits(self, facts: TailFacts) -> bool:
        if not facts.is_genai or facts.is_run or self._reason(facts) is not None:
            return False
        return any(
            rule.waits and state is None
            for rule, state in zip(self._rules, facts.states, strict=True)
        )

    def label(self, root: ReadableSpan, facts: TailFacts) -> None:
        if facts.reason is not None:
            tags = {SAMPLING_REASON: facts.reason, SAMPLING_WEIGHT: format(facts.weight, ".12g")}
            lend(root, {f"{TRACE_TAG_PREFIX}{key}": value for key, value in tags.items()})

    def _decision(self, facts: TailFacts, spans: Spans | Sequence[ReadableSpan]) -> Decision:
        facts.is_foreign = False
        reason = self._reason(facts) or self._reason_of_predicate(facts, spans)
        share = facts.share
        if reason is None:
            share = min(share, self._rate)
            reason = "rate" if is_in_share(facts.number, share) else None
        if reason is None:
            return Decision.REFUSE
        facts.reason = reason
        facts.weight = 1 / share if share > 0 else 1.0
        return Decision.KEEP

    def _reason(self, facts: TailFacts) -> str | None:
        """The reason for which a trace is kept, apart from predicates and the rate."""
        if facts.is_run:
            return "evaluation"
        for rule, state in zip(self._rules, facts.states, strict=True):
            is_met = functools.partial(rule.is_met, state, facts.seconds)
            if self._guarded(rule, is_met):
                return rule.reason
        return None

    def _reason_of_predicate(
        self, facts: TailFacts, spans: Spans | Sequence[ReadableSpan]
    ) -> str | None:
        if not self._judges or not callable(spans):
            return None
        try:
            trace = FinishedTrace.from_spans([one for one in spans() if not is_annotation(one)])
        except ValueError:  # No span is left of the trace, or a span cannot be read.
            _logger.debug("A trace could not be read for a predicate", exc_info=True)
            return None
        for index, judge in self._judges.items():
            if judge.keeps(trace):
                return self._rules[index].reason
        return None

    def _guarded(self, rule: KeepRule, call: Callable[[], Any], default: Any = None) -> Any:
        try:
            return call()
        except Exception as error:
            # Without its message, which may repeat content.
            self._log.warning(
                rule.reason,
                "Tail sampling: the rule %r raised %s and is ignored for this trace.",
                rule.reason,
                type(error).__name__,
            )
            return default


def _add(span: ReadableSpan, facts: TailFacts) -> None:
    attributes = span.attributes or {}
    facts.is_genai = facts.is_genai or is_of_genai(span)
    facts.is_run = facts.is_run or attributes.get(semconv.DSPY_OPERATION) in _RUNS
    start, end = span.start_time or 0, span.end_time or 0
    facts.start = start if facts.start is None else min(facts.start, start)
    facts.end = max(facts.end, end)
    if is_local_root(span):
        facts.root_seconds = max(facts.root_seconds or 0.0, (end - start) / 1e9)
    _add_share(attributes.get(SAMPLING_PROBABILITY), attributes.get(SAMPLING_RANDOMNESS), facts)


def _add_share(share: Any, randomness: Any, facts: TailFacts) -> None:
    if isinstance(share, float) and 0 < share <= 1:
        facts.share = share
    if isinstance(randomness, str):
        facts.number = int(randomness, 16)


class _Judge:
    """Calls a predicate on a thread of its own, and waits for it for a short time."""

    def __init__(self, function: Callable[[FinishedTrace], object]) -> None:
        answers: dict[str, bool] = {}

        @functools.wraps(function)
        def judge(trace: FinishedTrace) -> None:
            answers[trace.id] = bool(function(trace))

        self._answers = answers
        self._worker = Worker(judge)

    def keeps(self, trace: FinishedTrace) -> bool:
        """Whether the predicate keeps the trace; False while it needs too long."""
        if self._worker.status().waiting:
            return False
        self._answers.clear()
        self._worker.put(trace, 0)
        self._worker.flush(time.monotonic() + _PREDICATE_SECONDS)
        return self._answers.pop(trace.id, False)

    def close(self) -> None:
        """End the thread."""
        self._worker.close()
