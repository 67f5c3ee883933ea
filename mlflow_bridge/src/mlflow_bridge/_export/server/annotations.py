# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of assessments and tags as requests to a tracking server, as MLflow's client makes them.

MLflow has no request for several of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from google.protobuf.timestamp_pb2 import Timestamp

from mlflow_bridge._spans.annotation import Annotation
from mlflow_bridge._spans.exact_json import decoded

_ASSESSMENTS: Final = "/api/3.0/mlflow/traces/{}/assessments"
_TAGS: Final = "/api/2.0/mlflow/traces/{}/tags"
_MASK: Final = {
    "name": "assessmentName",
    "value": "",
    "rationale": "rationale",
    "metadata": "metadata",
}
"""The fields of an update, by the names that the server knows."""
_MAX_STACK_TRACE: Final = 10_000
_CUT: Final = "[Stack trace is truncated]\n...\n"


@dataclass(frozen=True, slots=True)
class AnnotationRequest:
    """A request.

    Attributes:
        method: The HTTP method.
        path: The path.
        payload: The content for JSON.
    """

    method: str
    path: str
    payload: dict[str, Any]


def request_for(annotation: Annotation) -> AnnotationRequest:
    """The request that makes the change.

    Raises:
        ValueError: A value has a number that JSON does not have.
    """
    made = _request_for(annotation)
    json.dumps(made.payload, allow_nan=False)
    return made


def assessment_path(trace_id: str, assessment_id: str) -> str:
    """The path of one assessment."""
    return f"{_ASSESSMENTS.format(trace_id)}/{quote(assessment_id, safe='')}"


def _request_for(annotation: Annotation) -> AnnotationRequest:
    trace_id = annotation.trace_id
    if annotation.tag is not None:
        key, value = annotation.tag
        return AnnotationRequest("PATCH", _TAGS.format(trace_id), {"key": key, "value": value})
    if annotation.deleted_tag is not None:
        payload: dict[str, Any] = {"key": annotation.deleted_tag}
        return AnnotationRequest("DELETE", _TAGS.format(trace_id), payload)
    if annotation.deleted_assessment is not None:
        deleted = annotation.deleted_assessment
        payload = {"trace_id": trace_id, "assessment_id": deleted}
        return AnnotationRequest("DELETE", assessment_path(trace_id, deleted), payload)
    if annotation.update is not None:
        return _update(trace_id, annotation.update)
    record = annotation.record
    content = annotation.assessment if record is None else _assessment(trace_id, record)
    return AnnotationRequest("POST", _ASSESSMENTS.format(trace_id), {"assessment": content})


def _update(trace_id: str, update: dict[str, Any]) -> AnnotationRequest:
    names = {**_MASK, "value": update["kind"]}
    assessment_id = str(update["assessment_id"])
    payload = {
        "assessment": {"assessment_id": assessment_id, "trace_id": trace_id, **_content(update)},
        "update_mask": ",".join(names[name] for name in names if name in update),
    }
    return AnnotationRequest("PATCH", assessment_path(trace_id, assessment_id), payload)


def _assessment(trace_id: str, record: dict[str, Any]) -> dict[str, Any]:
    source = {"source_type": record["source_type"], "source_id": record.get("source_id")}
    return {
        "assessment_id": record["assessment_id"],
        "trace_id": trace_id,
        "source": {key: value for key, value in source.items() if value is not None},
        "create_time": _time(record["create_time_ms"]),
        "last_update_time": _time(record["last_update_time_ms"]),
        **{name: record[name] for name in ("span_id", "overrides") if record.get(name)},
        **_content(record),
    }


def _content(record: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {record["kind"]: _value(record)}
    if record.get("name") is not None:
        found["assessment_name"] = record["name"]
    if record.get("rationale") is not None:
        found["rationale"] = record["rationale"]
    metadata: dict[str, Any] | None = decoded(record.get("metadata"))
    if metadata:
        found["metadata"] = {key: str(value) for key, value in metadata.items()}
    return found


def _value(record: dict[str, Any]) -> dict[str, Any]:
    value = decoded(record["value"])
    if record["kind"] == "issue":
        return {"issue_name": value["issue_name"]}
    if record["kind"] == "expectation" and isinstance(value, (list, dict)):
        text = json.dumps(value)
        return {"serialized_value": {"serialization_format": "JSON_FORMAT", "value": text}}
    found = {"value": value}
    if record.get("error"):
        found["error"] = _error(record["error"])
    return found


def _error(error: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in error.items() if value}
    trace = found.get("stack_trace", "")
    if len(trace) > _MAX_STACK_TRACE:
        found["stack_trace"] = _CUT + trace[len(_CUT) - _MAX_STACK_TRACE :]
    return found


def _time(milliseconds: int) -> str:
    stamp = Timestamp()
    stamp.FromMilliseconds(milliseconds)
    return stamp.ToJsonString()
