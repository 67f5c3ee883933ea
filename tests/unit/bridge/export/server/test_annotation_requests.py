# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Requests for annotations, of which the integration tests show what a server does with them."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_bridge._export.server.annotations import request_for
from mlflow_bridge._spans.annotation import Annotation
from mlflow_bridge._spans.exact_json import encoded

RECORD: dict[str, Any] = {
    "assessment_id": "a-1",
    "kind": "feedback",
    "name": "score",
    "value": 1,
    "source_type": "CODE",
    "create_time_ms": 1_000,
    "last_update_time_ms": 1_500,
}


def test_a_record_has_the_form_of_mlflows_client() -> None:
    record = {**RECORD, "error": {"error_code": "E", "stack_trace": "x" * 20_000}}
    made = request_for(Annotation("tr-1", record=record))
    assert (made.method, made.path) == ("POST", "/api/3.0/mlflow/traces/tr-1/assessments")
    content = made.payload["assessment"]
    error = content["feedback"].pop("error")
    assert (error["error_code"], len(error["stack_trace"])) == ("E", 10_000)
    assert content == {
        "assessment_id": "a-1",
        "trace_id": "tr-1",
        "assessment_name": "score",
        "source": {"source_type": "CODE"},
        "create_time": "1970-01-01T00:00:01Z",
        "last_update_time": "1970-01-01T00:00:01.500Z",
        "feedback": {"value": 1},
    }


def test_a_number_that_json_does_not_have_is_refused() -> None:
    record = {**RECORD, "value": encoded([float("nan")])}
    with pytest.raises(ValueError, match="not JSON compliant"):
        request_for(Annotation("tr-1", record=record))


def test_a_structured_expectation_is_a_text() -> None:
    record = {**RECORD, "kind": "expectation", "value": {"a": [1]}}
    content = request_for(Annotation("tr-1", record=record)).payload["assessment"]
    assert content["expectation"] == {
        "serialized_value": {"serialization_format": "JSON_FORMAT", "value": '{"a": [1]}'}
    }


def test_an_update_names_its_fields() -> None:
    update = {"assessment_id": "a-1", "kind": "feedback", "value": 2, "name": "n"}
    made = request_for(Annotation("tr-1", update=update))
    assert (made.method, made.path) == ("PATCH", "/api/3.0/mlflow/traces/tr-1/assessments/a-1")
    assert set(made.payload["update_mask"].split(",")) == {"assessmentName", "feedback"}
