# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The record of a trace from MLflow: its `Trace` object, the JSON of such an object, or the JSON
with which a tracking server answers (``GET /api/3.0/mlflow/traces/get``).

MLflow is not imported here: JSON is read without it.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mlflow_bridge._spans.names import TRACE_NAME_TAG, TRACE_SESSION, TRACE_USER
from mlflow_bridge.traces.records import (
    EventRecord,
    SpanRecord,
    TraceRecord,
    decoded,
    own_items,
)

_ENDED: Final = ("OK", "ERROR")
_ACCEPTED: Final = (
    "accepted: an mlflow.entities.Trace with its spans, or the mapping or JSON text of its "
    "to_dict() and to_json(), or the answer of a tracking server to api/3.0/mlflow/traces/get"
)

_Json = Mapping[str, Any]


def record_of_mlflow(trace: Any) -> TraceRecord:
    """The record of a trace that was read from MLflow.

    Args:
        trace: An ``mlflow.entities.Trace``, what its ``to_dict`` or ``to_json`` returns, or the
            answer of a tracking server, as mapping or text.

    Raises:
        ValueError: The value is of another kind.
    """
    info, spans = _parts(trace)
    try:
        state = str(info.get("state"))
        tags, metadata = _mapping(info.get("tags")), _mapping(info.get("trace_metadata"))
        return TraceRecord(
            id=str(info["trace_id"]),
            spans=[_span_record(span) for span in spans],
            complete=state in _ENDED,
            name=tags.get(TRACE_NAME_TAG),
            is_error=state == "ERROR" if state in _ENDED else None,
            session_id=metadata.get(TRACE_SESSION),
            user_id=metadata.get(TRACE_USER),
            tags=own_items(tags),
            metadata=own_items(metadata),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not a trace of MLflow ({error!r}); {_ACCEPTED}") from error


def _parts(trace: Any) -> tuple[_Json, Sequence[_Json]]:
    if isinstance(trace, (str, bytes)):
        try:
            return _parts_of_json(json.loads(trace))
        except ValueError as error:
            raise ValueError(f"not the JSON of a trace: {error}; {_ACCEPTED}") from error
    if not hasattr(trace, "info") or not hasattr(trace, "data"):
        return _parts_of_json(trace)
    info = trace.info
    known = {
        "trace_id": info.trace_id,
        "state": getattr(info.state, "value", info.state),
        "tags": info.tags,
        "trace_metadata": info.trace_metadata,
    }
    return known, [span.to_dict() for span in trace.data.spans]


def _parts_of_json(found: Any) -> tuple[_Json, Sequence[_Json]]:
    if isinstance(found, Mapping):
        parts = cast("_Json", found)
        parts = parts.get("trace", parts)
        info, data = parts.get("info"), parts.get("data")
        if isinstance(info, Mapping) and isinstance(data, Mapping):
            return cast("_Json", info), cast("_Json", data).get("spans") or ()
        info = parts.get("trace_info")
        if isinstance(info, Mapping):
            return cast("_Json", info), parts.get("spans") or ()
    kind = type(cast("object", found)).__name__
    raise ValueError(f"a {kind} is not a trace of MLflow; {_ACCEPTED}")


def _mapping(value: Any) -> _Json:
    return value or {}


def _span_record(span: _Json) -> SpanRecord:
    status = _mapping(span.get("status"))
    start = int(span["start_time_unix_nano"])
    return SpanRecord(
        id=_span_id(span["span_id"]) or "",
        parent=_span_id(span.get("parent_span_id")),
        name=str(span["name"]),
        start_time_ns=start,
        end_time_ns=int(span.get("end_time_unix_nano") or start),
        is_error=str(status.get("code", "")).endswith("ERROR"),
        description=status.get("message") or None,
        attributes=_attributes(span.get("attributes")),
        events=[_event_record(event) for event in span.get("events") or ()],
    )


def _event_record(event: _Json) -> EventRecord:
    found = event.get("attributes")
    if isinstance(found, list):
        attributes = {
            str(item["key"]): _any_value(_mapping(item.get("value")))
            for item in cast("list[_Json]", found)
        }
    else:
        attributes = {
            key: list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value
            for key, value in _mapping(found).items()
        }
    return EventRecord(str(event["name"]), int(event.get("time_unix_nano") or 0), attributes)


def _attributes(found: Any) -> dict[str, Any]:
    """The attributes of a span: JSON texts by name, or a list of OTLP's typed values."""
    if isinstance(found, list):
        return _of_proto(cast("list[_Json]", found))
    return {key: _value(text) for key, text in _mapping(found).items()}


def _of_proto(items: Sequence[_Json]) -> dict[str, Any]:
    return {str(item["key"]): decoded(_any_value(_mapping(item.get("value")))) for item in items}


def _any_value(found: _Json) -> Any:
    for kind, value in found.items():
        if kind == "int_value":
            return int(value)
        if kind == "double_value":
            return float(value)
        if kind == "array_value":
            return [_any_value(item) for item in _mapping(value).get("values") or ()]
        if kind == "kvlist_value":
            items = _mapping(value).get("values") or ()
            return {str(item["key"]): _any_value(_mapping(item.get("value"))) for item in items}
        return value
    return None


def _span_id(encoded: str | None) -> str | None:
    """The hex id of a span; MLflow writes the eight bytes in base64."""
    return b64decode(encoded, validate=True).hex() if encoded else None


def _value(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return decoded(json.loads(text))
    except ValueError:
        return text
