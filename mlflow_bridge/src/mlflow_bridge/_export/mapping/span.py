# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Mapping of an ended OpenTelemetry span to the same span in MLflow's dialect.

MLflow shows ``mlflow.*`` attributes. They are filled from the attributes of the DSPy
instrumentation, and of other instrumentations that follow the GenAI or OpenInference conventions.
Content that has become MLflow's inputs and outputs is not stored a second time. Both destinations
take the result: a `JsonText` is stored as it is, and other values are JSON-encoded once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, format_span_id

from mlflow_bridge._export.mapping.content import content_fields
from mlflow_bridge._export.mapping.evaluation import assessments_of
from mlflow_bridge._export.mapping.model_call import (
    is_cache_hit,
    is_spent_attribute,
    model_call_fields,
)
from mlflow_bridge._export.mapping.span_types import span_type
from mlflow_bridge._export.mapping.storable import Storable, clean_text, parsed_json, storable
from mlflow_bridge._export.mapping.trace_details import TraceDetails, details_in, is_detail
from mlflow_bridge._spans.attributes import as_dict
from mlflow_bridge._spans.lent_values import lent_to
from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.names import (
    EXPERIMENT_ID,
    SOURCE_RUN,
    SPAN_TYPE,
    TRACE_ID,
    TRACE_NAME,
    TRACE_TAG_PREFIX,
)
from mlflow_bridge._spans.program_tags import (
    DSPY_VERSION_TAG,
    PROGRAM_HASH_TAG,
    program_tags_of,
)
from opentelemetry.instrumentation.dspy import semconv

_TOOL_OPERATION: Final = "execute_tool"
_NO_RESOURCE: Final = Resource({})
_OK: Final = Status(StatusCode.OK)

# MLflow has no fields for these; the names are those of OpenTelemetry's mapping to other formats.
_SPAN_KIND: Final = "otel.span.kind"
_SCOPE_NAME: Final = "otel.scope.name"
_SCOPE_VERSION: Final = "otel.scope.version"
_REMOTE_PARENT: Final = "otel.remote_parent.span_id"

_IDENTITY: Final = frozenset({semconv.SESSION_ID, semconv.USER_ID, semconv.GEN_AI_CONVERSATION_ID})
# The limit of every MLflow store (mlflow.tracing.constant): a longer session id or trace name makes
# the whole batch fail.
_MAX_IDENTITY_CHARACTERS: Final = 250
_NO_TYPES: Final = (None, "", "UNKNOWN")
_MAX_TAG_CHARACTERS: Final = 4096
_MAX_NAME_BYTES: Final = 4096

# Resource attributes that do not become tags: each tag of each trace costs one write.
_UNTAGGED_RESOURCE: Final = ("telemetry.", "process.", "os.", "service.instance.id")
# The SDK's name for a service without a configured name.
_UNNAMED_SERVICE: Final = "unknown_service"


@dataclass(frozen=True, slots=True)
class MappedSpan:
    """A span in MLflow's dialect with its experiment and run.

    Attributes:
        span: The span to store.
        source: The original span.
        trace_id: The OpenTelemetry trace id.
        experiment_id: The experiment that the span names; ``None`` if it names no experiment.
        run_id: The run that the span names for its trace; ``None`` if it names no run.
        size: Approximate size of the attributes in bytes.
        is_local_root: Whether this span is the first of its trace in this process.
        details: On a root: what is written for its trace after the spans; ``None`` for nothing.
    """

    span: ReadableSpan
    source: ReadableSpan
    trace_id: int
    experiment_id: str | None
    run_id: str | None
    size: int
    is_local_root: bool
    details: TraceDetails | None = None

    @property
    def is_root(self) -> bool:
        """Whether this span is the root of its trace in MLflow."""
        return self.span.parent is None


_PROGRAM_TAGS: Final = (PROGRAM_HASH_TAG, DSPY_VERSION_TAG)


class SpanMapper:
    """Maps spans, one at a time. Used by one thread at a time.

    Args:
        max_attribute_bytes: Longest value of an attribute; longer text is cut.
        program_tags: Whether the trace of a root gets the tags of its program.
    """

    def __init__(self, max_attribute_bytes: int, *, program_tags: bool = True) -> None:
        self._limit = max_attribute_bytes
        self._program_tags = program_tags
        # All spans of a provider share one resource.
        self._resource: tuple[Resource, Resource] | None = None

    def with_limit(self, max_attribute_bytes: int) -> SpanMapper:
        """A mapper that cuts values at another length, and is the same otherwise."""
        return SpanMapper(max_attribute_bytes, program_tags=self._program_tags)

    def map(self, span: ReadableSpan, *, below_caller: bool = False) -> MappedSpan:
        """Map a span to MLflow's dialect, without a change to the span itself.

        Args:
            span: The ended span.
            below_caller: Whether a local root keeps its remote parent, and is no root in MLflow.

        Raises:
            ValueError: The span was made without a context and belongs to no trace.
        """
        trace_id = context_of(span).trace_id
        source = as_dict(span.attributes)
        if values := lent_to(span):
            source = {**self._wanted(values), **source}
        is_local = is_local_root(span)
        is_root = is_local and not below_caller
        attributes = self._attributes(span, source, is_local_root=is_local, is_root=is_root)
        mapped = ReadableSpan(
            name=_span_name(span, source) or "unnamed",
            context=span.context,
            # Without a root, a trace would stay "in progress" for ever.
            parent=None if is_root else span.parent,
            # MLflow tags the trace with any resource that it gets: only the root's names the trace.
            resource=self._tagging_resource(span.resource) if is_root else _NO_RESOURCE,
            attributes=attributes,
            events=[self._event(event) for event in span.events],
            links=[
                Link(link.context, self._storable_items(link.attributes)) for link in span.links
            ],
            kind=span.kind,
            instrumentation_scope=span.instrumentation_scope,
            status=self._status(span),
            start_time=_nanoseconds(span.start_time),
            # MLflow treats a span without an end as still running.
            end_time=_nanoseconds(span.start_time if span.end_time is None else span.end_time),
        )
        return MappedSpan(
            span=mapped,
            source=span,
            trace_id=trace_id,
            experiment_id=_mlflow_id(source.get(EXPERIMENT_ID)),
            run_id=_mlflow_id(source.get(SOURCE_RUN)),
            size=_size(attributes) + sum(_size(event.attributes or {}) for event in mapped.events),
            is_local_root=is_local,
            details=details_in(source, assessments_of(span, source, trace_id)) if is_root else None,
        )

    def _attributes(
        self,
        span: ReadableSpan,
        source: Mapping[str, Any],
        *,
        is_local_root: bool,
        is_root: bool,
    ) -> dict[str, Storable]:
        content = content_fields(source, self._limit, is_root=is_local_root)
        fields = {
            **content.fields,
            **model_call_fields(source, self._limit),
            **_origin(span),
            SPAN_TYPE: span_type(source),
        }
        if is_root:
            fields[TRACE_NAME] = _trace_name(span, source)
            fields.update(self._wanted(program_tags_of(span)))
        # MLflow writes these two on its own spans. The trace id follows from the span's context.
        left_out = content.consumed | {TRACE_ID}
        if is_local_root:
            left_out |= {key for key in source if is_detail(key)}
        if parsed_json(source.get(SPAN_TYPE)) in _NO_TYPES:
            left_out |= {SPAN_TYPE}
        if is_cache_hit(source):
            left_out |= {key for key in source if is_spent_attribute(key)}
        # Attributes that the program sets with MLflow's names take precedence.
        kept = {key: value for key, value in source.items() if key not in left_out}
        return self._storable_items({**fields, **kept})

    def _wanted(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._program_tags:
            return values
        return {key: value for key, value in values.items() if key not in _PROGRAM_TAGS}

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

    def _status(self, span: ReadableSpan) -> Status:
        status = span.status
        if status.status_code is StatusCode.UNSET and span.end_time is not None:
            # MLflow's dashboards and searches count only OK as a success.
            return _OK
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
    """The span's context, which every span has that a tracer has started.

    Raises:
        ValueError: The span was made without a context.
    """
    context = span.context
    if context is None:
        raise ValueError(f"span {span.name!r} has no context")
    return context


def _is_unnamed(key: str, value: Any) -> bool:
    return key == SERVICE_NAME and str(value).startswith(_UNNAMED_SERVICE)


def _origin(span: ReadableSpan) -> dict[str, str]:
    origin = {_SPAN_KIND: span.kind.name}
    service = span.resource.attributes.get(SERVICE_NAME)
    if isinstance(service, str) and not _is_unnamed(SERVICE_NAME, service):
        origin[SERVICE_NAME] = service
    scope = span.instrumentation_scope
    if scope is not None:
        origin[_SCOPE_NAME] = scope.name
        origin[_SCOPE_VERSION] = scope.version or ""
    if span.parent is not None and span.parent.is_remote:
        origin[_REMOTE_PARENT] = format_span_id(span.parent.span_id)
    return {key: value for key, value in origin.items() if value}


def _trace_name(span: ReadableSpan, source: Mapping[str, Any]) -> str:
    for key in (
        # For a module of DSPy's own classes, these also have the signature.
        semconv.GEN_AI_WORKFLOW_NAME,
        semconv.GEN_AI_AGENT_NAME,
        semconv.DSPY_MODULE_TYPE,
    ):
        name = source.get(key)
        if isinstance(name, str) and name:
            return name
    return _name(span.name)


def _span_name(span: ReadableSpan, source: Mapping[str, Any]) -> str:
    """The span's name; of a tool, the tool's own name, by which MLflow's tables group calls."""
    name = _name(span.name)
    if source.get(semconv.GEN_AI_OPERATION_NAME) == _TOOL_OPERATION:
        tool = source.get(semconv.GEN_AI_TOOL_NAME)
        if isinstance(tool, str) and tool and _is_of_tool(span.name, tool):
            return _name(tool)
    return name


def _is_of_tool(name: str, tool: str) -> bool:
    """Whether this is the name that the instrumentation gives the span of a tool, or its part."""
    whole = f"{_TOOL_OPERATION} {tool}"
    return name == whole or (name.endswith("…") and whole.startswith(name[:-1]))


def _mlflow_id(value: Any) -> str | None:
    """An id of MLflow, from plain text or from JSON, which MLflow's own spans have."""
    return _text_of(parsed_json(value), _MAX_IDENTITY_CHARACTERS)


def _name(value: Any) -> str:
    """A name as text, since the SDK accepts any object as a name."""
    text = value if isinstance(value, str) else _text_of(value) or ""
    return clean_text(text, _MAX_NAME_BYTES)


def _nanoseconds(value: Any) -> int | None:
    """A time in integer nanoseconds; a float, from ``time.time() * 1e9``, is a common mistake."""
    try:
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return 0


def _text_of(value: Any, characters: int = _MAX_TAG_CHARACTERS) -> str | None:
    """The value as plain text of limited length; ``None`` if the text is empty."""
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
