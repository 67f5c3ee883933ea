# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""An ended OpenTelemetry span -> the same span in MLflow's dialect.

What MLflow shows lies in ``mlflow.*`` attributes. They are filled from the attributes of our DSPy
instrumentation and of any other that follows the GenAI or OpenInference conventions; content that
has become MLflow's inputs and outputs is not kept a second time. Both destinations take the
result: a `JsonText` is stored as it is, other values are JSON-encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, Status, format_span_id

from mlflow_bridge._export.mapping.content import content_fields
from mlflow_bridge._export.mapping.model_call import (
    is_cache_hit,
    is_spent_attribute,
    model_call_fields,
)
from mlflow_bridge._export.mapping.span_types import span_type
from mlflow_bridge._export.mapping.storable import Storable, clean_text, parsed_json, storable
from mlflow_bridge._spans.attributes import as_dict
from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.names import (
    EXPERIMENT_ID,
    SOURCE_RUN,
    SPAN_TYPE,
    TRACE_ID,
    TRACE_NAME,
    TRACE_TAG_PREFIX,
)
from opentelemetry.instrumentation.dspy import semconv

# MLflow has no place for these; the names are those of OTel's mapping to other formats.
_SPAN_KIND: Final = "otel.span.kind"
_SCOPE_NAME: Final = "otel.scope.name"
_SCOPE_VERSION: Final = "otel.scope.version"
_REMOTE_PARENT: Final = "otel.remote_parent.span_id"

_IDENTITY: Final = frozenset({semconv.SESSION_ID, semconv.USER_ID, semconv.GEN_AI_CONVERSATION_ID})
# What every MLflow store takes (mlflow.tracing.constant): a longer session id or trace name fails
# the batch that it is in.
_MAX_IDENTITY_CHARACTERS: Final = 250
_NO_TYPES: Final = (None, "", "UNKNOWN")
_MAX_TAG_CHARACTERS: Final = 4096
_MAX_NAME_BYTES: Final = 4096

# Every attribute of the resource becomes a tag of every trace, each a write of its own.
_UNTAGGED_RESOURCE: Final = ("telemetry.", "process.", "os.", "service.instance.id")
# What the SDK calls a service that nobody has named.
_UNNAMED_SERVICE: Final = "unknown_service"


@dataclass(frozen=True, slots=True)
class MappedSpan:
    """A span in MLflow's dialect and where it belongs.

    Attributes:
        span: The span to store.
        source: The span that it was made from.
        trace_id: The OpenTelemetry trace id.
        experiment_id: The experiment that the span itself names, if any.
        run_id: The run that the span's trace belongs to, if the span names one.
        size: About how many bytes the span takes.
    """

    span: ReadableSpan
    source: ReadableSpan
    trace_id: int
    experiment_id: str | None
    run_id: str | None
    size: int

    @property
    def is_root(self) -> bool:
        """Whether MLflow will take this span for the root of its trace."""
        return self.span.parent is None


class SpanMapper:
    """Maps spans, one at a time. Used by one thread at a time."""

    def __init__(self, max_attribute_bytes: int) -> None:
        self._limit = max_attribute_bytes
        # All spans of a provider share one resource.
        self._resource: tuple[Resource, Resource] | None = None

    def map(self, span: ReadableSpan) -> MappedSpan:
        """The span in MLflow's dialect. The span itself is not changed.

        Raises:
            ValueError: It is no span of a trace, but was made without a context.
        """
        trace_id = context_of(span).trace_id
        source = as_dict(span.attributes)
        attributes = self._attributes(span, source)
        mapped = ReadableSpan(
            name=_name(span.name) or "unnamed",
            context=span.context,
            # A trace whose root never comes would stay "in progress" for ever.
            parent=None if is_local_root(span) else span.parent,
            resource=self._tagging_resource(span.resource),
            attributes=attributes,
            events=[self._event(event) for event in span.events],
            links=[
                Link(link.context, self._storable_items(link.attributes)) for link in span.links
            ],
            kind=span.kind,
            instrumentation_scope=span.instrumentation_scope,
            status=self._status(span.status),
            start_time=_nanoseconds(span.start_time),
            # A span without an end counts as one that still runs.
            end_time=_nanoseconds(span.start_time if span.end_time is None else span.end_time),
        )
        return MappedSpan(
            span=mapped,
            source=span,
            trace_id=trace_id,
            experiment_id=_place_of(source.get(EXPERIMENT_ID)),
            run_id=_place_of(source.get(SOURCE_RUN)),
            size=_size(attributes) + sum(_size(event.attributes or {}) for event in mapped.events),
        )

    def _attributes(self, span: ReadableSpan, source: Mapping[str, Any]) -> dict[str, Storable]:
        content = content_fields(source, self._limit)
        fields = {
            **content.fields,
            **model_call_fields(source, self._limit),
            **_origin(span),
            SPAN_TYPE: span_type(source),
        }
        if is_local_root(span):
            fields[TRACE_NAME] = _trace_name(span, source)
        # MLflow writes both on its own spans; the first one follows from the span's context.
        left_out = content.consumed | {TRACE_ID}
        if parsed_json(source.get(SPAN_TYPE)) in _NO_TYPES:
            left_out |= {SPAN_TYPE}
        if is_cache_hit(source):
            left_out |= {key for key in source if is_spent_attribute(key)}
        # What the program says in MLflow's own words stands.
        kept = {key: value for key, value in source.items() if key not in left_out}
        return self._storable_items({**fields, **kept})

    def _storable_items(self, items: Mapping[str, Any] | None) -> dict[str, Storable]:
        stored: dict[str, Storable] = {}
        for key, value in (items or {}).items():
            name = clean_text(key, _MAX_NAME_BYTES)
            kept = self._storable_item(key, value)
            if name and kept is not None:
                stored[name] = kept
        return stored

    def _storable_item(self, key: str, value: Any) -> Storable | None:
        if key in _IDENTITY:
            return _text_of(value, _MAX_IDENTITY_CHARACTERS)
        if key.startswith(TRACE_TAG_PREFIX):
            return _text_of(value, _MAX_TAG_CHARACTERS)
        return storable(value, self._limit)

    def _event(self, event: Event) -> Event:
        items = self._storable_items(event.attributes)
        return Event(_name(event.name), items, _nanoseconds(event.timestamp))

    def _status(self, status: Status) -> Status:
        if status.description is None:
            return status
        return Status(status.status_code, clean_text(status.description, self._limit))

    def _tagging_resource(self, resource: Resource) -> Resource:
        if self._resource is None or self._resource[0] is not resource:
            tags = {
                key: value
                for key, value in resource.attributes.items()
                if not key.startswith(_UNTAGGED_RESOURCE) and not _is_unnamed(key, value)
            }
            self._resource = (resource, Resource(self._storable_items(tags), resource.schema_url))
        return self._resource[1]


def context_of(span: ReadableSpan) -> SpanContext:
    """The span's context, which every span that was started has."""
    context = span.context
    if context is None:
        raise ValueError(f"span {span.name!r} has no context")
    return context


def _is_unnamed(key: str, value: Any) -> bool:
    return key == SERVICE_NAME and str(value).startswith(_UNNAMED_SERVICE)


def _origin(span: ReadableSpan) -> dict[str, str]:
    origin = {_SPAN_KIND: span.kind.name}
    scope = span.instrumentation_scope
    if scope is not None:
        origin[_SCOPE_NAME] = scope.name
        origin[_SCOPE_VERSION] = scope.version or ""
    if span.parent is not None and span.parent.is_remote:
        origin[_REMOTE_PARENT] = format_span_id(span.parent.span_id)
    return {key: value for key, value in origin.items() if value}


def _trace_name(span: ReadableSpan, source: Mapping[str, Any]) -> str:
    for key in (
        semconv.DSPY_MODULE_TYPE,
        semconv.GEN_AI_WORKFLOW_NAME,
        semconv.GEN_AI_AGENT_NAME,
    ):
        name = source.get(key)
        if isinstance(name, str) and name:
            return name
    return _name(span.name)


def _place_of(value: Any) -> str | None:
    """An id of MLflow's, from plain text or from JSON as MLflow's own spans have it."""
    return _text_of(parsed_json(value), _MAX_IDENTITY_CHARACTERS)


def _name(value: Any) -> str:
    """A name as text: the SDK takes any object for one."""
    text = value if isinstance(value, str) else _text_of(value) or ""
    return clean_text(text, _MAX_NAME_BYTES)


def _nanoseconds(value: Any) -> int | None:
    """A time as an integer: a float, from ``time.time() * 1e9``, is a common mistake."""
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _text_of(value: Any, characters: int = _MAX_TAG_CHARACTERS) -> str | None:
    """The value as plain text of bounded length; ``None`` if there is nothing in it."""
    kept = storable(value, 4 * _MAX_TAG_CHARACTERS)
    return None if kept is None else str.__str__(str(kept))[:characters] or None


def _size(attributes: Mapping[str, Any]) -> int:
    return sum(_size_of(value) + len(key) + 8 for key, value in attributes.items())


def _size_of(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Sequence):
        return sum(_size_of(item) for item in cast("Sequence[Any]", value))
    return 8
