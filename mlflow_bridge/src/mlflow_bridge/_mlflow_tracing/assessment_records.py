# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's assessments as records: with the values that MLflow's own store keeps.

The conversions of MLflow's entities change values: all numbers become floats, and metadata becomes
text. A record has what a direct call of MLflow would store. What MLflow would refuse in a direct
call is refused here, with the same exception.

The checks of tags in ``mlflow.utils.validation`` are not documented, but are the same from MLflow
3.15 to 3.17. No other file uses them.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Final, cast

from google.protobuf.json_format import MessageToDict
from mlflow.entities import Assessment, AssessmentError, AssessmentSource, Expectation, Feedback
from mlflow.entities.assessment import IssueReference, IssueReferenceValue
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, ErrorCode
from mlflow.utils import validation

from mlflow_bridge._spans.exact_json import decoded, encoded

_TEXTS: Final = ("name", "source_id", "run_id", "span_id", "rationale", "overrides")
_PLAIN: Final = (str, int, float, bytes)


def record_of(assessment: Assessment, *, is_remote: bool) -> dict[str, Any]:
    """The record of an assessment.

    Args:
        assessment: The assessment, with its id.
        is_remote: Whether MLflow would send it to a tracking server, and not write to a database.

    Raises:
        Exception: What MLflow raises in a direct call for a value that it does not store.
    """
    if is_remote:
        # MLflow makes the text of its request from this.
        MessageToDict(assessment.to_proto())
        sent = copy.copy(assessment)
        sent.metadata = {key: str(value) for key, value in (assessment.metadata or {}).items()}
        return _record_of(sent)
    try:
        return _checked(_record_of(assessment), assessment)
    except (TypeError, ValueError, RecursionError) as error:
        # As a session of MLflow's store does.
        raise MlflowException(message=str(error), error_code=INTERNAL_ERROR) from error


def updates_of(assessment: Assessment, *, is_remote: bool) -> dict[str, Any]:
    """The new values of an assessment, as in a record.

    Raises:
        Exception: As for `record_of`.
    """
    if is_remote:
        request = assessment.to_proto()
        request.metadata.update(assessment.metadata or {})
        MessageToDict(request)
    try:
        found = _content_of(assessment)
    except (TypeError, ValueError, RecursionError) as error:
        if is_remote:
            raise
        raise MlflowException(message=str(error), error_code=INTERNAL_ERROR) from error
    given = {**found, "name": assessment.name, "rationale": assessment.rationale}
    # A value may be None, while for the other fields this means that they stay.
    return {key: value for key, value in given.items() if key == "value" or value is not None}


def updated(
    record: dict[str, Any], update: dict[str, Any], now_ms: int, *, is_remote: bool
) -> dict[str, Any]:
    """The record after an update, as MLflow's store makes it.

    Raises:
        MlflowException: MLflow does not update an assessment of one kind with a value of another.
    """
    kind, known = str(update["kind"]), str(record["kind"])
    if kind != known:
        of = {"expectation": "an Expectation", "feedback": "a Feedback"}.get(known, "an Issue")
        said = f"Cannot update {kind} value on {of} assessment."
        raise refusal(said, INVALID_PARAMETER_VALUE, is_remote=is_remote)
    metadata: dict[str, Any] = {**record.get("metadata", {}), **update.get("metadata", {})}
    changed = {**record, **update, "last_update_time_ms": now_ms}
    if "error" not in update:
        changed.pop("error", None)
    if kind == "expectation":  # MLflow's store does not keep the rationale here.
        changed.pop("rationale", None)
    return {**changed, "metadata": metadata} if metadata else changed


def assessment_of(record: dict[str, Any], trace_id: str) -> Assessment:
    """MLflow's assessment with the content of a record."""
    value, error = decoded(record["value"]), record.get("error")
    shared: dict[str, Any] = {
        "source": AssessmentSource(record["source_type"], record.get("source_id")),
        "trace_id": trace_id,
        "metadata": decoded(record.get("metadata")),
        "span_id": record.get("span_id"),
        "create_time_ms": record["create_time_ms"],
        "last_update_time_ms": record["last_update_time_ms"],
    }
    made: Assessment
    if record["kind"] == "feedback":
        shown = AssessmentError(**error) if error else None
        made = Feedback(record["name"], value, error=shown, **shared)
    elif record["kind"] == "expectation":
        made = Expectation(record["name"], value, **shared)
    else:
        made = IssueReference(record["name"], value["issue_name"], **shared)
    for name in ("run_id", "rationale", "overrides", "assessment_id"):
        setattr(made, name, record.get(name))
    made.valid = record.get("valid", True)
    return made


def check_tag(key: Any, value: str, *, is_remote: bool) -> tuple[str, str]:
    """Key and value of a tag as MLflow stores them.

    Raises:
        Exception: What MLflow raises in a direct call for a tag that it does not store.
    """
    check: Any = getattr(validation, "_validate_trace_tag", None)
    if check is None:  # Another version of MLflow refuses the tag when it is stored.
        return key, value
    try:
        return check(key, value)
    except MlflowException as error:
        code = ErrorCode.Value(error.error_code)
        raise refusal(error.message, code, is_remote=is_remote) from None


def refusal(said: str, code: int, *, is_remote: bool) -> MlflowException:
    """The exception with which MLflow refuses a call.

    Args:
        said: Its message.
        code: The code of the error.
        is_remote: Whether a tracking server would refuse it.
    """
    if is_remote:
        return RestException({"error_code": cast("Any", ErrorCode).Name(code), "message": said})
    return MlflowException(said, error_code=code)


def _record_of(assessment: Assessment) -> dict[str, Any]:
    source = assessment.source
    found = {
        **_content_of(assessment),
        "assessment_id": assessment.assessment_id,
        "name": assessment.name,
        "source_type": source.source_type,
        "source_id": source.source_id,
        "run_id": assessment.run_id,
        "span_id": assessment.span_id,
        "rationale": assessment.rationale,
        "overrides": assessment.overrides,
        "create_time_ms": assessment.create_time_ms,
        "last_update_time_ms": assessment.last_update_time_ms,
    }
    return {key: value for key, value in found.items() if key == "value" or value is not None}


def _content_of(assessment: Assessment) -> dict[str, Any]:
    """Kind, value, error and metadata of an assessment."""
    error = None
    if assessment.feedback is not None:
        kind, value = "feedback", cast("object", assessment.feedback.value)
        if assessment.feedback.error is not None:
            error = encoded(assessment.feedback.error.to_dictionary())
    elif assessment.expectation is not None:
        kind, value = "expectation", cast("object", assessment.expectation.value)
    else:
        issue = cast("IssueReferenceValue", assessment.issue)
        kind, value = "issue", cast("object", issue.to_dictionary())
    metadata = encoded(assessment.metadata) if assessment.metadata else None
    return {"kind": kind, "value": encoded(value), "error": error, "metadata": metadata}


def _checked(record: dict[str, Any], assessment: Assessment) -> dict[str, Any]:
    """The record, if a database takes its texts.

    Raises:
        TypeError, ValueError: It does not.
    """
    if record.get("name") is None:
        trace_id = assessment.trace_id
        raise ValueError(
            f"Failed to create assessment for trace '{trace_id}' due to a constraint violation."
        )
    for name in _TEXTS:
        value = record.get(name)
        if value is not None and not isinstance(value, _PLAIN):
            raise TypeError(f"{name} of an assessment is a {type(value).__name__}, not a text")
        json.dumps(value)
    return record
