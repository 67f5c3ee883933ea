# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Changes of assessments and tags in MLflow's SQL store.

MLflow has no way to write several of them in one transaction.
"""

from __future__ import annotations

from typing import Any

from mlflow_bridge._spans.annotation import Annotation
from mlflow_bridge._spans.exact_json import decoded


def store_annotation(store: Any, entities: Any, annotation: Annotation) -> None:
    """Write an annotation in one transaction.

    Args:
        store: MLflow's SQL store.
        entities: The module ``mlflow.entities.assessment``.
        annotation: The annotation.

    Raises:
        Exception: Whatever the store raises.
    """
    trace_id = annotation.trace_id
    if annotation.tag is not None:
        store.set_trace_tag(trace_id, *annotation.tag)
    elif annotation.deleted_tag is not None:
        store.delete_trace_tag(trace_id, annotation.deleted_tag)
    elif annotation.deleted_assessment is not None:
        store.delete_assessment(trace_id, annotation.deleted_assessment)
    elif annotation.update is not None:
        store.update_assessment(**_update(entities, annotation.update), trace_id=trace_id)
    elif annotation.record is not None:
        store.create_assessment(_assessment(entities, annotation.record, trace_id))
    elif annotation.assessment is not None:
        store.create_assessment(entities.Assessment.from_dictionary(annotation.assessment))


def _update(entities: Any, update: dict[str, Any]) -> dict[str, Any]:
    values = _values(entities, update)
    values.pop("issue", None)
    texts = {name: update.get(name) for name in ("assessment_id", "name", "rationale")}
    return {**values, **texts, "metadata": decoded(update.get("metadata"))}


def _assessment(entities: Any, record: dict[str, Any], trace_id: str) -> Any:
    # Of the base class, since those for the kinds do not take all fields.
    return entities.Assessment(
        **_values(entities, record),
        name=record.get("name"),
        source=entities.AssessmentSource(record["source_type"], record.get("source_id")),
        trace_id=trace_id,
        metadata=decoded(record.get("metadata")),
        assessment_id=record["assessment_id"],
        create_time_ms=record["create_time_ms"],
        last_update_time_ms=record["last_update_time_ms"],
        **{name: record.get(name) for name in ("run_id", "span_id", "rationale", "overrides")},
    )


def _values(entities: Any, record: dict[str, Any]) -> dict[str, Any]:
    value, error = decoded(record["value"]), record.get("error")
    if record["kind"] == "expectation":
        return {"expectation": entities.ExpectationValue(value)}
    if record["kind"] == "issue":
        return {"issue": entities.IssueReferenceValue(value["issue_name"])}
    shown = entities.AssessmentError(**error) if error else None
    return {"feedback": entities.FeedbackValue(value, shown)}
