# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Scores and labels of an example as MLflow's assessments."""

from __future__ import annotations

import re
from typing import Any

import pytest
from opentelemetry.trace import Status, StatusCode

from tests.support.dspy_spans import Recorder, json_of
from tests.unit.bridge.export.mapped_spans import mapped, replaced

EXAMPLE: dict[str, Any] = {
    "dspy.operation": "example",
    "dspy.evaluate.trace_id": "5b" * 16,
    "dspy.evaluate.metric": "correct",
}


def assessments(attributes: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    details = mapped(replaced(Recorder().one("example 1", attributes), **changes)).details
    return [] if details is None else [dict(one) for one in details.assessments]


def test_a_score_is_feedback_of_the_metric() -> None:
    span = Recorder().one(
        "example 1",
        {**EXAMPLE, "dspy.example.score": 0.25, "gen_ai.evaluation.explanation": "Too short."},
    )
    details = mapped(span).details
    assert details is not None
    [found] = details.assessments
    assert span.context is not None
    trace_id = f"tr-{span.context.trace_id:032x}"
    assert re.fullmatch("a-[0-9a-f]{32}", found["assessment_id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["create_time"])
    assert {key: value for key, value in found.items() if key not in ("assessment_id",)} == {
        "assessment_name": "correct",
        "trace_id": trace_id,
        "source": {"source_type": "CODE", "source_id": "correct"},
        "create_time": found["create_time"],
        "last_update_time": found["create_time"],
        "feedback": {"value": 0.25},
        "rationale": "Too short.",
        "valid": True,
    }
    assert type(found["feedback"]["value"]) is float


def test_the_id_is_the_same_each_time() -> None:
    span = Recorder().one("example 1", {**EXAMPLE, "dspy.example.score": 1.0})
    first, second = mapped(span).details, mapped(span).details
    assert first is not None and second is not None
    assert first.assessments == second.assessments


@pytest.mark.parametrize(("score", "label", "value"), [(1.0, "pass", True), (0.0, "fail", False)])
def test_yes_or_no_stays_a_boolean(score: float, label: str, value: bool) -> None:
    [found] = assessments(
        {**EXAMPLE, "dspy.example.score": score, "gen_ai.evaluation.score.label": label}
    )
    assert found["feedback"]["value"] is value


def test_a_failed_example_is_an_error() -> None:
    [found] = assessments(
        {**EXAMPLE, "error.type": "ValueError"},
        status=Status(StatusCode.ERROR, "ValueError: no score"),
    )
    assert found["feedback"] == {
        "value": None,
        "error": {"error_code": "ValueError", "error_message": "ValueError: no score"},
    }


def test_labels_of_the_example_are_expectations() -> None:
    fields = {
        "question": "q",
        "answer": "a",
        "count": 3,
        "large": 2**60,
        "right": True,
        "nothing": None,
        "items": [1, {"b": "ü"}],
    }
    found = assessments(
        {
            **EXAMPLE,
            "dspy.example.input": json_of(fields),
            "dspy.example.label_fields": tuple(name for name in fields if name != "question"),
        }
    )
    assert {one["assessment_name"]: one["expectation"] for one in found} == {
        "answer": {"value": "a"},
        "count": {"value": 3},
        "large": {"serialized_value": {"serialization_format": "JSON_FORMAT", "value": str(2**60)}},
        "right": {"value": True},
        "nothing": {"value": None},
        "items": {
            "serialized_value": {"serialization_format": "JSON_FORMAT", "value": '[1,{"b":"ü"}]'}
        },
    }
    assert {one["source"]["source_type"] for one in found} == {"HUMAN"}
    assert len({one["assessment_id"] for one in found}) == 6


@pytest.mark.parametrize(
    "attributes",
    [
        {"dspy.operation": "example", "dspy.example.score": 1.0},
        {"dspy.operation": "module", "dspy.evaluate.metric": "correct", "dspy.example.score": 1.0},
        {**EXAMPLE, "dspy.example.input": "{", "dspy.example.label_fields": ("answer",)},
        {**EXAMPLE, "dspy.example.input": '{"a":1}', "dspy.example.label_fields": ("b",)},
        EXAMPLE,
    ],
)
def test_other_spans_have_none(attributes: dict[str, Any]) -> None:
    assert assessments(attributes) == []
