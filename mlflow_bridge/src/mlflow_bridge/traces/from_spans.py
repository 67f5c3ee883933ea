# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The record of a trace from its ended spans, live or out of an OTLP JSON file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from mlflow_bridge._export.lending import Lending
from mlflow_bridge._export.mapping.span import MappedSpan, SpanMapper
from mlflow_bridge._export.mapping.storable import JsonText, parsed_json
from mlflow_bridge._spans.annotation import is_annotation
from mlflow_bridge._spans.lent_values import lent_to
from mlflow_bridge._spans.names import INPUTS, OUTPUTS, TRACE_TAG_PREFIX
from mlflow_bridge._spans.otlp_json.decoder import spans_in
from mlflow_bridge._spans.trace_buffer import trace_id_of
from mlflow_bridge.traces.records import (
    EventRecord,
    SpanRecord,
    TraceRecord,
    decoded,
    own_items,
)

MAX_ATTRIBUTE_BYTES: Final = 1_048_576
"""Longest value of an attribute, as the setting of the same name has it by default."""

# MLflow does not make tags of these attributes of a resource.
_UNTAGGED: Final = "telemetry.sdk."


def record_of_spans(
    spans: Sequence[ReadableSpan],
    *,
    complete: bool | None = None,
    max_attribute_bytes: int = MAX_ATTRIBUTE_BYTES,
    program_tags: bool = True,
) -> TraceRecord:
    """The record of the trace to which these spans belong.

    Args:
        spans: The ended spans of one trace, in any order. Of spans with one id, the last counts.
        complete: Whether these are all spans; None to look whether each parent is there.
        max_attribute_bytes: Longest value of an attribute; longer text is cut.
        program_tags: Whether the tags include those of the program.

    Raises:
        ValueError: There is no span, or a span belongs to another trace or to no trace.
    """
    unique = _without_copies(spans)
    _lend(unique)
    mapper = SpanMapper(max_attribute_bytes, program_tags=program_tags)
    mapped = [mapper.map(span) for span in unique]
    roots = [one for one in mapped if one.is_local_root]
    details = [root.details for root in roots if root.details is not None]
    if complete is None:
        complete = bool(roots) and _has_all_parents(mapped)
    return TraceRecord(
        id=f"tr-{format_trace_id(mapped[0].trace_id)}",
        spans=[_span_record(one) for one in mapped],
        complete=complete,
        is_error=_is_error({one.state for one in details}),
        tags=own_items(_merged(map(_tags, roots))),
        metadata=own_items(_merged(one.metadata for one in details)),
    )


def spans_of_lines(lines: bytes | str | Iterable[bytes | str]) -> Iterator[ReadableSpan]:
    """The spans in lines of an OTLP JSON file, one line after the other.

    Args:
        lines: One line or several lines, as text or bytes, or an iterable of lines.

    Raises:
        ValueError: A line is not OTLP JSON of traces.
    """
    given: Iterable[bytes | str] = (lines,) if isinstance(lines, (bytes, str)) else lines
    for text in given:
        data = text.encode() if isinstance(text, str) else text
        for line in data.splitlines():
            if line.strip():
                yield from (one for one in spans_in(line) if not is_annotation(one))


def _without_copies(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    unique: dict[int, ReadableSpan] = {}
    for span in spans:
        if span.context is None:
            raise ValueError(f"span {span.name!r} belongs to no trace")
        unique[span.context.span_id] = span
    traces = {trace_id_of(span) for span in unique.values()}
    if len(traces) != 1:
        raise ValueError(f"the spans belong to {len(traces)} traces; accepted: spans of one trace")
    return list(unique.values())


def _lend(spans: Sequence[ReadableSpan]) -> None:
    """Lend a root without values those of the program below it, as for a delivery."""
    if any(INPUTS in lent_to(span) or OUTPUTS in lent_to(span) for span in spans):
        return
    lending = Lending()
    # Children before their parents, as the spans end.
    for span in sorted(spans, key=lambda span: (span.end_time or 0, -(span.start_time or 0))):
        lending.note(span)


def _has_all_parents(mapped: Sequence[MappedSpan]) -> bool:
    known = {one.span.context.span_id for one in mapped if one.span.context is not None}
    parents = {one.span.parent.span_id for one in mapped if one.span.parent is not None}
    return parents <= known


def _span_record(one: MappedSpan) -> SpanRecord:
    span, parent = one.span, one.span.parent
    assert span.context is not None, "mapped spans have ids"
    return SpanRecord(
        id=format_span_id(span.context.span_id),
        parent=None if parent is None else format_span_id(parent.span_id),
        name=span.name,
        start_time_ns=span.start_time or 0,
        end_time_ns=span.end_time or span.start_time or 0,
        is_error=span.status.status_code is StatusCode.ERROR,
        description=span.status.description,
        attributes={key: _value(value) for key, value in (span.attributes or {}).items()},
        events=[_event_record(event) for event in span.events],
    )


def _event_record(event: Event) -> EventRecord:
    # MLflow stores the attributes of events as they are, and reads no JSON in them.
    attributes = {key: _plain(value) for key, value in (event.attributes or {}).items()}
    return EventRecord(event.name, event.timestamp or 0, attributes)


def _value(value: Any) -> Any:
    """A mapped value as MLflow returns it."""
    return decoded(parsed_json(str(value)) if isinstance(value, JsonText) else _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    return list(value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _tags(root: MappedSpan) -> dict[str, Any]:
    resource = {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in root.span.resource.attributes.items()
        if not key.startswith(_UNTAGGED)
    }
    # Tags of the program take precedence.
    tags = {
        key.removeprefix(TRACE_TAG_PREFIX): value
        for key, value in (root.span.attributes or {}).items()
        if key.startswith(TRACE_TAG_PREFIX)
    }
    return {**resource, **tags}


def _is_error(states: Set[str | None]) -> bool | None:
    """Whether the trace failed, if a root says it apart from its status."""
    return "ERROR" in states if states - {None} else None


def _merged(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for items in found for key, value in items.items()}
