# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The setting ``redact`` on spans of other origin: of MLflow's own tracing, of the program.

The instrumentation redacts what it records itself. What other code puts on a span, also on a span
of the instrumentation, is redacted here, when the span ends and before it is queued or written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast
from weakref import WeakSet

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status

from mlflow_bridge._process.interruption import belongs_to_program
from mlflow_bridge._spans import names
from mlflow_bridge._spans.attributes import as_dict
from opentelemetry.instrumentation.dspy import SpanRedactor, watch_redactor
from opentelemetry.instrumentation.dspy.semconv import (
    ERROR_TYPE,
    EXCEPTION_TYPE,
    GEN_AI_CONVERSATION_ID,
    GEN_AI_OPERATION_NAME,
    GEN_AI_PROVIDER_NAME,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_RESPONSE_MODEL,
    Events,
)

_logger = logging.getLogger(__name__)

_DSPY_SCOPE: Final = "opentelemetry.instrumentation.dspy"
_REDACTED_BEFORE: Final = ("dspy.", "gen_ai.", "error.", "server.")
"""Prefixes of the attributes that the instrumentation of DSPy sets."""
_CONVERSATION: Final = GEN_AI_CONVERSATION_ID
_DSPY_EVENTS: Final = frozenset({"exception", Events.EVALUATION_RESULT})
_KEPT: Final = frozenset(
    {
        names.TRACE_ID,
        names.EXPERIMENT_ID,
        names.SOURCE_RUN,
        names.MODEL_ID,
        names.SPAN_TYPE,
        names.MESSAGE_FORMAT,
        names.TOKEN_USAGE,
        names.COST,
        names.MODEL,
        names.PROVIDER,
        names.ABSENT_PARENT,
        f"{names.TRACE_TAG_PREFIX}{names.DOCTOR_TAG}",
        f"{names.TRACE_TAG_PREFIX}mlflow.eval.requestId",
        ERROR_TYPE,
        EXCEPTION_TYPE,
        GEN_AI_OPERATION_NAME,
        GEN_AI_PROVIDER_NAME,
        GEN_AI_REQUEST_MODEL,
        GEN_AI_RESPONSE_MODEL,
        "gen_ai.system",
        "openinference.span.kind",
        "traceloop.span.kind",
    }
)
"""Attributes by which spans are delivered and shown; they contain no data of the program."""


def redacted(span: ReadableSpan, redactor: SpanRedactor) -> ReadableSpan:
    """A span as it is to be delivered; the span itself if it contains nothing to remove.

    Raises only what a signal handler has raised.
    """
    context = span.context
    if context is None:
        return span
    try:
        return _redacted(span, redactor, context.trace_id)
    except Exception as error:
        if belongs_to_program(error):
            raise
        _logger.warning(
            "A span could not be redacted (%s); its content is withheld.", type(error).__name__
        )
        kept = {key: item for key, item in as_dict(span.attributes).items() if key in _KEPT}
        return _copy(span, "redacted", kept, [], [], Status(span.status.status_code))


def _redacted(span: ReadableSpan, redactor: SpanRedactor, trace_id: int) -> ReadableSpan:
    scope = span.instrumentation_scope
    is_dspys = scope is not None and scope.name == _DSPY_SCOPE
    before = _REDACTED_BEFORE if is_dspys else ()

    def hidden(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
        given = as_dict(attributes)
        seen = {
            key: item
            for key, item in given.items()
            if key not in _KEPT and (key == _CONVERSATION or not key.startswith(before))
        }
        # The order of the attributes stays.
        return {**given, **redactor.span_attributes(trace_id, seen)} if seen else given

    attributes = hidden(span.attributes)
    events = [
        event
        if is_dspys and event.name in _DSPY_EVENTS
        else Event(event.name, hidden(event.attributes), event.timestamp)
        for event in span.events
    ]
    links = [Link(link.context, hidden(link.attributes)) for link in span.links]
    name, status = span.name, span.status
    if not is_dspys:
        name = redactor.span_name(trace_id, name)
        if status.description:
            shown = redactor.span_text(trace_id, "message", status.description)
            status = Status(status.status_code, shown)
    return _copy(span, name, attributes, events, links, status)


def _copy(
    span: ReadableSpan,
    name: str,
    attributes: Mapping[str, Any],
    events: list[Event],
    links: list[Link],
    status: Status,
) -> ReadableSpan:
    return ReadableSpan(
        name=name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=events,
        links=links,
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=status,
        start_time=span.start_time,
        end_time=span.end_time,
    )


class _Watch:
    """The redaction in use, and the processors that follow it."""

    redactor: SpanRedactor | None = None
    is_on = False
    is_held = False


_followers: WeakSet[Any] = WeakSet()
_ON_END: Final = "on_end"


def follow_redaction(processor: Any) -> None:
    """Redact the ended spans that a processor is given, while the setting ``redact`` is in use.

    Its ``on_end`` is replaced meanwhile, so that a processor without redaction does no step more.
    """
    _followers.add(processor)
    if _Watch.is_on:
        _apply(processor)
    else:
        _Watch.is_on = True
        watch_redactor(_changed)


def leave_redaction(processor: Any) -> None:
    """Undo `follow_redaction` for a processor that takes no spans."""
    _followers.discard(processor)
    cast("dict[str, Any]", vars(processor)).pop(_ON_END, None)


@contextmanager
def held_redaction() -> Generator[None]:
    """Keep the redaction in use while DSPy is instrumented again with other settings."""
    _Watch.is_held = True
    try:
        yield
    finally:
        _Watch.is_held = False
        _apply_to_all()


def _changed(redactor: SpanRedactor | None) -> None:
    _Watch.redactor = redactor
    if not _Watch.is_held:
        _apply_to_all()


def _apply_to_all() -> None:
    for processor in list(_followers):
        _apply(processor)


def _apply(processor: Any) -> None:
    redactor, own = _Watch.redactor, cast("dict[str, Any]", vars(processor))
    if redactor is None:
        own.pop(_ON_END, None)
    else:
        kind = cast("Any", type(processor))
        own[_ON_END] = _redacting(kind.on_end.__get__(processor), redactor)


def _redacting(
    on_end: Callable[[ReadableSpan], None], redactor: SpanRedactor
) -> Callable[[ReadableSpan], None]:
    def on_end_redacted(span: ReadableSpan) -> None:
        # If a signal handler raises here, the flush finds the span in the register of open spans.
        on_end(redacted(span, redactor))

    return on_end_redacted
