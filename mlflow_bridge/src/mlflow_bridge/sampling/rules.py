# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Rules that say which traces tail sampling keeps."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from mlflow_bridge._config.base import ConfigurationError
from mlflow_bridge._spans.annotation import annotation_of, is_annotation
from opentelemetry.instrumentation.dspy import semconv

if TYPE_CHECKING:
    from mlflow_bridge.traces.finished import FinishedTrace

_MAX_PROGRAMS: Final = 10_000
_MAX_CALLS: Final = 100_000
_SCORE_EVENT: Final = semconv.Events.EVALUATION_RESULT


class KeepRule:
    """Keeps a trace for one reason. Made by the functions of this module.

    A rule looks at each ended span once, and remembers what it needs in a state of its own for each
    trace. It is used by one thread at a time.

    Attributes:
        reason: Value of the tag ``dspy.sampling.reason`` of a trace that the rule keeps.
        waits: Whether a complete trace without a result waits for ``grace_seconds``.
    """

    waits = False

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def new_state(self) -> Any:
        """The state of a trace before its first span."""
        return None

    def note(self, span: ReadableSpan, state: Any) -> Any:
        """Add an ended span, or an assessment. Returns the new state."""
        return state

    def is_met(self, state: Any, seconds: float) -> bool:
        """Whether the trace is kept.

        Args:
            state: The state after all spans.
            seconds: Duration of the local root; of a trace without one, of its spans so far.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__.strip('_')}({self.reason!r})"


class _Errors(KeepRule):
    def note(self, span: ReadableSpan, state: Any) -> bool:
        return bool(state) or span.status.status_code is StatusCode.ERROR

    def is_met(self, state: Any, seconds: float) -> bool:
        return bool(state)


class _SlowerThan(KeepRule):
    def __init__(self, seconds: float) -> None:
        super().__init__("slow")
        self._seconds = seconds

    def is_met(self, state: Any, seconds: float) -> bool:
        return seconds > self._seconds


class _AnyAttribute(KeepRule):
    """Keeps a trace with a span of which an attribute has one of these values, or any value."""

    def __init__(self, reason: str, attribute: str, values: tuple[str, ...] | None = None) -> None:
        super().__init__(reason)
        self._attribute = attribute
        self._values = values

    def note(self, span: ReadableSpan, state: Any) -> bool:
        if state:
            return True
        value = (span.attributes or {}).get(self._attribute)
        return value is not None and (self._values is None or value in self._values)

    def is_met(self, state: Any, seconds: float) -> bool:
        return bool(state)


class _Usage:
    """Amounts of the calls of a trace.

    A client of a model that is instrumented, too, reports the same call again, below DSPy's span.
    """

    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls: dict[int, tuple[int | None, float]] = {}
        """Parent and amount by span id; of DSPy's own calls, without the parent."""

    def total(self) -> float:
        return math.fsum(
            amount for parent, amount in self.calls.values() if parent not in self.calls
        )


class _UsageAbove(KeepRule):
    def __init__(self, reason: str, limit: float, amount_of: Callable[[Any], float | None]) -> None:
        super().__init__(reason)
        self._limit = limit
        self._amount_of = amount_of

    def new_state(self) -> _Usage:
        return _Usage()

    def note(self, span: ReadableSpan, state: _Usage) -> _Usage:
        attributes = span.attributes or {}
        amount = self._amount_of(attributes)
        if amount is not None and span.context is not None and len(state.calls) < _MAX_CALLS:
            is_dspys = semconv.DSPY_OPERATION in attributes
            parent = None if is_dspys or span.parent is None else span.parent.span_id
            state.calls[span.context.span_id] = (parent, amount)
        return state

    def is_met(self, state: _Usage, seconds: float) -> bool:
        return state.total() > self._limit


class _ScoreBelow(KeepRule):
    waits = True

    def __init__(self, metric: str, threshold: float) -> None:
        super().__init__(f"score:{metric}")
        self._metric = metric
        self._threshold = threshold

    def note(self, span: ReadableSpan, state: float | None) -> float | None:
        found = _scores(span, self._metric)
        return min([*found, *([] if state is None else [state])], default=None)

    def is_met(self, state: float | None, seconds: float) -> bool:
        return state is not None and state < self._threshold


class _NewProgram(KeepRule):
    def __init__(self, first: int) -> None:
        super().__init__("new_program")
        self._first = first
        self._seen: OrderedDict[str, int] = OrderedDict()

    def note(self, span: ReadableSpan, state: str | None) -> str | None:
        # The outermost module ends last.
        found = (span.attributes or {}).get(semconv.DSPY_PROGRAM_HASH)
        return str(found) if found is not None else state

    def is_met(self, state: str | None, seconds: float) -> bool:
        if state is None:
            return False
        count = self._seen[state] = self._seen.pop(state, 0) + 1
        if len(self._seen) > _MAX_PROGRAMS:
            self._seen.popitem(last=False)
        return count <= self._first


class Predicate(KeepRule):
    """Keeps a trace for which a function returns a true value."""

    def __init__(self, function: Callable[[FinishedTrace], object]) -> None:
        super().__init__("predicate")
        self.function = function

    def is_met(self, state: Any, seconds: float) -> bool:
        """Not known from the spans alone; see `TailPolicy`."""
        return False


def errors() -> KeepRule:
    """Keep traces in which a span failed. Reason: ``error``."""
    return _Errors("error")


def slower_than(*, seconds: float) -> KeepRule:
    """Keep traces whose root took longer. Reason: ``slow``.

    Args:
        seconds: Duration of the root in seconds, 0 or more.

    Raises:
        ConfigurationError: The value is not accepted.
    """
    return _SlowerThan(_number("slower_than", "seconds", seconds))


def cost_above(*, usd: float) -> KeepRule:
    """Keep traces that cost more, as far as the cost is known. Reason: ``cost``.

    Args:
        usd: Cost of all calls of models in US dollars, 0 or more.

    Raises:
        ConfigurationError: The value is not accepted.
    """
    return _UsageAbove("cost", _number("cost_above", "usd", usd), _cost_of)


def tokens_above(count: int) -> KeepRule:
    """Keep traces that used more tokens. Reason: ``tokens``.

    Args:
        count: Input and output tokens of all calls of models, 0 or more.

    Raises:
        ConfigurationError: The value is not accepted.
    """
    return _UsageAbove("tokens", _number("tokens_above", "count", count), _tokens_of)


def score_below(metric: str, threshold: float) -> KeepRule:
    """Keep traces with a score below a threshold. Reason: ``score:`` and the name of the metric.

    A score is an assessment of this name that the process logs (``mlflow.log_feedback``), or an
    event ``gen_ai.evaluation.result`` of a span. A complete trace without a score waits for
    ``grace_seconds``. Of true and false, the scores are 1 and 0.

    Args:
        metric: Name of the metric.
        threshold: Scores below this number keep the trace.

    Raises:
        ConfigurationError: A value is not accepted.
    """
    if not isinstance(metric, str) or not metric:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"score_below: metric is {metric!r}; accepted: a name")
    limit = _number("score_below", "threshold", threshold, least=-math.inf)
    return _ScoreBelow(metric, limit)


def parse_failures() -> KeepRule:
    """Keep traces in which an adapter could not parse a response. Reason: ``parse_failure``."""
    return _AnyAttribute("parse_failure", semconv.DSPY_ADAPTER_PARSE_ERROR_TYPE)


def new_program(*, first: int = 20) -> KeepRule:
    """Keep the first traces of each program in this process. Reason: ``new_program``.

    Programs are told apart by ``dspy.program.hash`` of the outermost module, so a program that is
    compiled again is a new program.

    Args:
        first: Number of traces, 1 or more.

    Raises:
        ConfigurationError: The value is not accepted.
    """
    return _NewProgram(int(_number("new_program", "first", first, least=1)))


def agent_exhausted() -> KeepRule:
    """Keep traces in which an agent ended without finishing. Reason: ``agent_exhausted``.

    That is, it had no steps left, or no room in the context window of the model.
    """
    ends = (semconv.AgentTerminations.MAX_ITERS, semconv.AgentTerminations.CONTEXT_WINDOW)
    return _AnyAttribute("agent_exhausted", semconv.DSPY_AGENT_TERMINATION, ends)


def predicate(function: Callable[[FinishedTrace], object]) -> KeepRule:
    """Keep traces for which a function returns a true value. Reason: ``predicate``.

    The function is called on a thread of its own, for traces that no other rule keeps. If it
    raises, the rule does not keep the trace. If it needs more than five seconds, the trace is kept
    by its ``rate`` alone, and the rule rests until the function has returned.

    Args:
        function: Gets a `FinishedTrace`.

    Raises:
        ConfigurationError: It is not a function.
    """
    if not callable(function):
        raise ConfigurationError(
            f"predicate: function is {function!r}; accepted: a function of a FinishedTrace"
        )
    return Predicate(function)


def _number(rule: str, name: str, value: Any, *, least: float = 0.0) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or math.isnan(value) or value < least:
        at_least = "" if least == -math.inf else f", at least {least:g}"
        raise ConfigurationError(f"{rule}: {name} is {value!r}; accepted: a number{at_least}")
    return float(value)


def _cost_of(attributes: Mapping[str, Any]) -> float | None:
    return _amount(attributes, semconv.DSPY_LM_COST_TOTAL)


def _tokens_of(attributes: Mapping[str, Any]) -> float | None:
    return _amount(
        attributes,
        semconv.GEN_AI_USAGE_INPUT_TOKENS,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
    )


def _amount(attributes: Mapping[str, Any], *keys: str) -> float | None:
    found: list[Any] = [value for key in keys if _is_number(value := attributes.get(key))]
    return math.fsum(found) if found else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _scores(span: ReadableSpan, metric: str) -> list[float]:
    """The scores of this metric in an assessment, or in the events of a span."""
    if is_annotation(span):
        annotation = annotation_of(span)
        record = annotation.record
        if record is not None:
            is_score = record.get("kind") == "feedback" and record.get("name") == metric
            return _as_scores([record.get("value")] if is_score else [])
        assessment = annotation.assessment or {}
        feedback: Any = assessment.get("feedback")
        is_named = assessment.get("assessment_name", assessment.get("name")) == metric
        return _as_scores([feedback.get("value")] if is_named and feedback else [])
    return _as_scores(
        [
            (event.attributes or {}).get(semconv.GEN_AI_EVALUATION_SCORE_VALUE)
            for event in span.events
            if event.name == _SCORE_EVENT
            and (event.attributes or {}).get(semconv.GEN_AI_EVALUATION_NAME) == metric
        ]
    )


def _as_scores(values: list[Any]) -> list[float]:
    found: list[Any] = [_parsed(value) for value in values]
    return [float(value) for value in found if _is_number(value)]


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None
