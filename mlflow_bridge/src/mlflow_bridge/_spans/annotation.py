# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of the assessments and tags of a trace before it is stored.

An annotation goes the way of the spans, behind those of its trace: through the queue, the spool and
the retries. So nothing on that way needs to know of it, except at its end.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, cast
from weakref import WeakKeyDictionary, WeakMethod

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags, format_trace_id

from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._process.rng import rng
from mlflow_bridge._spans.annotation_order import annotation_order
from mlflow_bridge._spans.names import ANNOTATION

_NAME: Final = "annotation"
_PROGRAM_NAME: Final = "program"
_SCOPE: Final = InstrumentationScope("mlflow_bridge.annotation")
_NO_RESOURCE: Final = Resource({})
_MAX_IN_FLIGHT: Final = 16_384


@dataclass(frozen=True, slots=True)
class Annotation:
    """A change of the assessments or tags of a trace, or a program. One such field is set.

    Attributes:
        trace_id: MLflow's id of the trace.
        assessment: A new assessment in MLflow's JSON form, with its id.
        record: A new assessment with the exact values that MLflow's store keeps; see `encoded`.
        update: New values of an assessment, with its id, in the form of ``record``.
        deleted_assessment: The id of an assessment to delete.
        tag: Key and value of a tag.
        deleted_tag: The key of a tag to delete.
        program: Hash and description of a program that has made a trace.
        experiment_id: The experiment for a program; None for the configured experiment.
        made_at: Time of the annotation, in seconds since 1970.
    """

    trace_id: str
    assessment: dict[str, Any] | None = None
    record: dict[str, Any] | None = None
    update: dict[str, Any] | None = None
    deleted_assessment: str | None = None
    tag: tuple[str, str] | None = None
    deleted_tag: str | None = None
    program: tuple[str, str] | None = None
    experiment_id: str | None = None
    made_at: float = 0.0

    @property
    def assessment_id(self) -> str | None:
        """The id of the new assessment; None if the annotation makes none."""
        return (self.record or self.assessment or {}).get("assessment_id")

    def as_span(self, trace_id: int) -> ReadableSpan:
        """The annotation as an ended span, below a span that does not exist.

        Args:
            trace_id: OpenTelemetry's id of the trace.
        """
        context, parent = (_context(trace_id) for _ in range(2))
        content = {
            name: value for name in _CONTENT if (value := getattr(self, name, None)) is not None
        }
        now = time.time_ns()
        return ReadableSpan(
            name=_NAME if self.program is None else _PROGRAM_NAME,
            context=context,
            parent=parent,
            resource=_NO_RESOURCE,
            instrumentation_scope=_SCOPE,
            attributes={ANNOTATION: _as_text(content)},
            start_time=now,
            end_time=now,
        )


_CONTENT: Final = (
    "assessment",
    "record",
    "update",
    "deleted_assessment",
    "tag",
    "deleted_tag",
    "program",
    "experiment_id",
)


def _as_text(content: dict[str, Any]) -> str:
    try:
        return orjson.dumps(content).decode()
    except TypeError:  # A text with half a surrogate pair, for instance.
        return json.dumps(content)


def is_annotation(span: ReadableSpan) -> bool:
    """Whether a span is an annotation, and not a span of the program."""
    # By the scope, which stays if the attributes are withheld.
    scope = span.instrumentation_scope
    return scope is not None and scope.name == _SCOPE.name


def is_program(span: ReadableSpan) -> bool:
    """Whether a span is an annotation with a program, which does not depend on a trace."""
    return is_annotation(span) and span.name == _PROGRAM_NAME


def annotation_of(span: ReadableSpan) -> Annotation:
    """The annotation that travels as this span.

    Raises:
        ValueError: The text of the annotation is damaged.
    """
    context = span.get_span_context()
    parsed: Any = json.loads(str((span.attributes or {}).get(ANNOTATION)))
    if not isinstance(parsed, dict) or context is None:
        raise ValueError("an annotation without content")
    content = cast("dict[str, Any]", parsed)
    tag: Any = content.get("tag")
    program: Any = content.get("program")
    return Annotation(
        trace_id=f"tr-{format_trace_id(context.trace_id)}",
        assessment=content.get("assessment"),
        record=content.get("record"),
        update=content.get("update"),
        deleted_assessment=content.get("deleted_assessment"),
        tag=None if tag is None else (str(tag[0]), str(tag[1])),
        deleted_tag=content.get("deleted_tag"),
        program=None if program is None else (str(program[0]), str(program[1])),
        experiment_id=content.get("experiment_id"),
        made_at=(span.end_time or 0) / 1e9,
    )


class TracesInFlight:
    """The traces of this process whose root MLflow may not have yet. Thread-safe."""

    def __init__(self) -> None:
        self._traces: OrderedDict[int, None] = OrderedDict()

    def __contains__(self, trace_id: object) -> bool:
        return trace_id in self._traces

    def begun(self, trace_id: int) -> None:
        """Add a trace; the oldest trace is forgotten beyond a limit."""
        traces = self._traces
        traces[trace_id] = None
        if len(traces) > _MAX_IN_FLIGHT:
            with suppress(KeyError):  # Another thread has taken it out.
                traces.popitem(last=False)

    def stored(self, trace_id: int) -> None:
        """Remove a trace: MLflow has its root."""
        self._traces.pop(trace_id, None)

    def clear(self) -> None:
        """Forget all traces, in a forked child: the parent delivers them."""
        self._traces = OrderedDict()


traces_in_flight: Final = TracesInFlight()


def _forget_in_child() -> None:
    traces_in_flight.clear()


# Not the bound method: it is held weakly, and would be freed when the interpreter shuts down.
call_in_child(_forget_in_child)

_Deliver = Callable[[ReadableSpan], None]
_HasTrace = Callable[[int], bool]
_takers: WeakKeyDictionary[object, tuple[WeakMethod[_Deliver], WeakMethod[_HasTrace]]]
_takers = WeakKeyDictionary()


def deliver_annotations(processor: object, deliver: _Deliver, has_trace: _HasTrace) -> None:
    """Give the annotations of this process to a processor, while the program refers to it.

    Args:
        processor: The processor.
        deliver: Its method that takes an annotation, and raises only what a signal handler raises.
        has_trace: Its method that says whether it is known to deliver a trace.
    """
    _takers[processor] = (WeakMethod(deliver), WeakMethod(has_trace))


def annotate(annotation: Annotation, trace_id: int) -> None:
    """Deliver an annotation behind the spans of its trace.

    Args:
        annotation: The annotation.
        trace_id: OpenTelemetry's id of the trace.
    """
    deliver(in_order(annotation, trace_id))


def in_order(annotation: Annotation, trace_id: int) -> ReadableSpan:
    """The annotation as a span, with its place behind the earlier annotations of its trace."""
    span = annotation.as_span(trace_id)
    annotation_order.add(span)
    return span


def deliver(span: ReadableSpan) -> None:
    """Deliver an annotation that has its place in the order."""
    trace_id = cast("SpanContext", span.get_span_context()).trace_id
    methods = [(deliver(), has_trace()) for deliver, has_trace in list(_takers.values())]
    takers = [(deliver, has) for deliver, has in methods if deliver is not None and has is not None]
    knowing = [deliver for deliver, has_trace in takers if has_trace(trace_id)]
    chosen = knowing or [deliver for deliver, _ in takers]
    if not chosen:
        annotation_order.settled(span)
    for deliver_one in chosen:
        deliver_one(span)


def _context(trace_id: int) -> SpanContext:
    return SpanContext(
        trace_id=trace_id,
        span_id=rng.getrandbits(64) or 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
