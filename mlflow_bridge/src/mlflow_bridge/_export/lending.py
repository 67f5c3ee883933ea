# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Request and response of a trace whose root has no values: those of the program below it.

A span of a web framework, or one that a program puts around its calls, records no inputs and
outputs. In MLflow, the list of traces would then show nothing, and a scorer would get nothing. So a
local root without values is lent the values of the outermost spans of DSPy or GenAI below it. An
example that is a trace of its own is lent the values of its program, which MLflow's scorers read.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.mapping.content import CONTENT, content_fields
from mlflow_bridge._export.mapping.span_types import span_type
from mlflow_bridge._export.mapping.storable import Storable, json_text, parsed_json
from mlflow_bridge._spans.attributes import as_dict
from mlflow_bridge._spans.evaluation_requests import EvaluationRequests
from mlflow_bridge._spans.genai import is_of_dspy, is_of_genai, is_only_of_mlflow
from mlflow_bridge._spans.inheritance import is_example_trace
from mlflow_bridge._spans.lent_values import lend
from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.names import EVALUATION_REQUEST_TAG, INPUTS, MESSAGE_FORMAT, OUTPUTS
from mlflow_bridge._spans.otlp_json.decoder import SpooledSpan
from mlflow_bridge._spans.program_tags import program_tags_of
from mlflow_bridge._spans.span_size import size_of
from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy.semconv import DSPY_PROGRAM_HASH

_logger = logging.getLogger(__name__)

_MAX_VALUES: Final = 32
"""Outermost spans whose values are remembered below one span."""
_MAX_ENDED: Final = 256
"""Ended spans of one trace below which further spans may end."""
_MAX_TRACES: Final = 8192
_MAX_BYTES: Final = 67_108_864
_MAX_TRACE_BYTES: Final = 8_388_608
_MAX_LENT_BYTES: Final = 1_048_576

# DSPy's spans that have no values themselves, because they only run programs.
_RUNNERS: Final = frozenset({semconv.Operations.PARALLEL, semconv.Operations.STREAM})
_PROGRAMS: Final = frozenset(
    {
        semconv.Operations.MODULE,
        semconv.Operations.PREDICT,
        semconv.Operations.EVALUATE,
        semconv.Operations.COMPILE,
    }
)
_PROGRAM_TYPES: Final = frozenset({"AGENT", "CHAIN"})

_Attributes = Mapping[str, Any]


@dataclass(slots=True)
class _Values:
    """The values of an outermost span, or of the calls that run at the same time."""

    span_id: int
    start: int
    end: int
    is_program: bool
    """Whether the span is a program, and not a single call of a model or tool."""
    size: int
    attributes: list[_Attributes]
    """Of one span, or of several in the order of their start."""
    is_list: bool = False
    left_out: int = 0


@dataclass(slots=True)
class _Trace:
    below: dict[int, list[_Values]] = field(default_factory=dict[int, list[_Values]])
    """The outermost values below each span that has not ended, by its id."""
    program: tuple[int, Mapping[str, str]] | None = None
    """Start and tags of the outermost module; of several, the first."""
    ended: dict[int, int] = field(default_factory=dict[int, int])
    """The ended spans without values, and what stands above each of them."""
    size: int = 0


class Lending:
    """Values for the local roots of a process, from the ended spans below them.

    Spans end from the inside out. So the values of a span wait under the id of its parent until the
    parent ends: then they are dropped if the parent has values itself, and else wait for the next
    span above. A local root without values gets what waits for it. Only attributes are remembered,
    within limits of number and bytes, so a span never waits for its root.

    Thread-safe. A span may be given again, as after a failed delivery.
    """

    def __init__(self) -> None:
        self.is_fed = False
        """Whether a processor gives this object all spans when they end."""
        self.forget()

    def forget(self) -> None:
        """Forget all traces, and renew the lock: in a forked child, a parent's thread holds it."""
        # Reentrant: a signal handler may close a processor that is being closed.
        self._lock = threading.RLock()
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._size = 0
        self._requests = EvaluationRequests()

    def note_delivered(self, spans: Iterable[ReadableSpan]) -> None:
        """Take spans that are about to be delivered, unless a processor has given them before."""
        for span in spans:
            if not self.is_fed or isinstance(span, SpooledSpan):
                self.note(span)

    def note(self, span: ReadableSpan) -> None:
        """Take an ended span; a local root without values is lent its values now. Never raises."""
        try:
            with self._lock:
                self._note(span)
        except Exception:
            _logger.debug("The values of a span could not be looked at", exc_info=True)

    def _note(self, span: ReadableSpan) -> None:
        context = span.context
        if context is None:
            return
        attributes = as_dict(span.attributes)
        may_borrow = _may_borrow(span, attributes)
        trace = self._traces.get(context.trace_id)
        if is_local_root(span):
            found = self._taken_from(trace, context.span_id)
            if trace is not None and not trace.below:
                self._remove(context.trace_id)
            lent: dict[str, Any] = {}
            if trace is not None and trace.program and DSPY_PROGRAM_HASH not in attributes:
                lent.update(trace.program[1])
            if is_example_trace(attributes):
                lent[EVALUATION_REQUEST_TAG] = self._requests.id_of(attributes)
                lent.update(_lent_values([values for values in found if values.is_program]))
            elif may_borrow:
                lent.update(_lent_values(_as_runner(span, attributes, found)))
            if lent:
                lend(span, lent)
            return
        assert span.parent is not None
        if trace is None:
            trace = self._traces[context.trace_id] = _Trace()
        self._traces.move_to_end(context.trace_id)
        _note_program(span, attributes, trace)
        found = self._taken_from(trace, context.span_id)
        above = self._above(trace, span.parent.span_id)
        if may_borrow:
            for values in _as_runner(span, attributes, found):
                self._put(trace, above, values)
            trace.ended[context.span_id] = above
            if len(trace.ended) > _MAX_ENDED:
                del trace.ended[next(iter(trace.ended))]
        else:
            self._put(trace, above, _values_of(span, attributes))
        self._keep_within_limits(trace)

    def _taken_from(self, trace: _Trace | None, span_id: int) -> list[_Values]:
        found = [] if trace is None else trace.below.pop(span_id, [])
        if trace is not None:
            self._resize(trace, -sum(values.size for values in found))
        return found

    @staticmethod
    def _above(trace: _Trace, span_id: int) -> int:
        """The span that is to get the values: one that has not ended without values."""
        for _ in range(_MAX_ENDED):
            if span_id not in trace.ended:
                break
            span_id = trace.ended[span_id]
        return span_id

    def _put(self, trace: _Trace, above: int, values: _Values) -> None:
        waiting = trace.below.setdefault(above, [])
        if any(other.span_id == values.span_id for other in waiting):
            return
        waiting.append(values)
        self._resize(trace, values.size)
        if len(waiting) > _MAX_VALUES:
            self._leave_out(trace, waiting)

    def _leave_out(self, trace: _Trace, waiting: list[_Values]) -> None:
        """Forget values from the middle: the first and the last are shown in any case."""
        middle = len(waiting) // 2
        gone = waiting.pop(middle)
        waiting[middle - 1].left_out += len(gone.attributes) + gone.left_out
        self._resize(trace, -gone.size)

    def _keep_within_limits(self, trace: _Trace) -> None:
        while trace.size > _MAX_TRACE_BYTES:
            longest = max(trace.below.values(), key=len)
            if len(longest) > 2:  # noqa: PLR2004
                self._leave_out(trace, longest)
            else:
                self._taken_from(trace, next(iter(trace.below)))
        while self._traces and (self._size > _MAX_BYTES or len(self._traces) > _MAX_TRACES):
            self._remove(next(iter(self._traces)))

    def _remove(self, trace_id: int) -> None:
        self._size -= self._traces.pop(trace_id).size

    def _resize(self, trace: _Trace, change: int) -> None:
        trace.size += change
        self._size += change


def _note_program(span: ReadableSpan, attributes: _Attributes, trace: _Trace) -> None:
    if DSPY_PROGRAM_HASH not in attributes:
        return
    start = span.start_time or 0
    # A module starts before the modules inside of it, and ends after them.
    if trace.program is None or start <= trace.program[0]:
        trace.program = start, program_tags_of(span)


def _may_borrow(span: ReadableSpan, attributes: _Attributes) -> bool:
    """Whether a span has no values, and is not of a kind that would record values if it should."""
    if not CONTENT.isdisjoint(attributes):
        return False
    if is_of_dspy(span):
        return attributes.get(semconv.DSPY_OPERATION) in _RUNNERS
    return not is_of_genai(span) or is_only_of_mlflow(span)


def _values_of(span: ReadableSpan, attributes: _Attributes) -> _Values:
    operation = attributes.get(semconv.DSPY_OPERATION)
    is_program = operation in _PROGRAMS or (
        operation is None and span_type(attributes) in _PROGRAM_TYPES
    )
    return _Values(
        _span_id(span),
        span.start_time or 0,
        span.end_time or 0,
        is_program,
        size_of(span),
        [attributes],
    )


def _as_runner(
    span: ReadableSpan, attributes: _Attributes, found: Sequence[_Values]
) -> Sequence[_Values]:
    """The values below a span, as one list if the span runs calls side by side."""
    chosen = _programs_in(found)
    if not chosen or attributes.get(semconv.DSPY_OPERATION) != semconv.Operations.PARALLEL:
        return chosen
    return [_listed(_span_id(span), chosen)]


def _programs_in(found: Sequence[_Values]) -> Sequence[_Values]:
    """The programs, without calls that stand beside them; all calls if there is no program."""
    return [values for values in found if values.is_program] or found


def _listed(span_id: int, chosen: Sequence[_Values]) -> _Values:
    in_order = sorted(chosen, key=lambda values: values.start)
    attributes = [one for values in in_order for one in values.attributes]
    left_out = sum(values.left_out for values in in_order) + len(attributes[_MAX_VALUES:])
    return _Values(
        span_id,
        in_order[0].start,
        max(values.end for values in in_order),
        any(values.is_program for values in in_order),
        sum(values.size for values in in_order),
        attributes[:_MAX_VALUES],
        is_list=True,
        left_out=left_out,
    )


def _lent_values(found: Sequence[_Values]) -> dict[str, Storable]:
    """The attributes that a root is lent, from the outermost values below it.

    Of calls one after the other, a user thinks of what went in first and what came out last. Calls
    that overlap have no such order: their values become lists.
    """
    chosen = sorted(_programs_in(found), key=lambda values: values.start)
    if _overlap(chosen):
        chosen = [_listed(0, chosen)]
    if not chosen:
        return {}
    first, last = chosen[0], max(chosen, key=lambda values: values.end)
    if first is last and not first.is_list:
        fields = _fields(first.attributes[0])
        return {key: fields[key] for key in (INPUTS, OUTPUTS, MESSAGE_FORMAT) if key in fields}
    lent = {INPUTS: _shown(first, INPUTS), OUTPUTS: _shown(last, OUTPUTS)}
    return {key: value for key, value in lent.items() if value is not None}


def _overlap(in_order: Sequence[_Values]) -> bool:
    latest = 0
    for values in in_order:
        if values.start < latest:
            return True
        latest = max(latest, values.end)
    return False


def _shown(values: _Values, name: str) -> Storable | None:
    if not values.is_list:
        return _fields(values.attributes[0]).get(name)
    items = [parsed_json(_fields(each).get(name)) for each in values.attributes]
    if all(item is None for item in items):
        return None
    if values.left_out:
        items.append(f"[... {values.left_out} more]")
    # MLflow's evaluation datasets require a mapping as inputs.
    return json_text({"inputs": items} if name == INPUTS else items, _MAX_LENT_BYTES)


def _fields(attributes: _Attributes) -> dict[str, Storable]:
    return content_fields(attributes, _MAX_LENT_BYTES, is_root=True).fields | {
        key: attributes[key] for key in (INPUTS, OUTPUTS, MESSAGE_FORMAT) if key in attributes
    }


def _span_id(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.span_id
