# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Ids of examples, by which evaluations are compared."""

from __future__ import annotations

from typing import Any

from mlflow_bridge._spans.evaluation_requests import EvaluationRequests


def example(content: str | None, evaluation: str = "e", index: int = 0) -> dict[str, Any]:
    known: dict[str, Any] = {"dspy.evaluate.span_id": evaluation, "dspy.example.index": index}
    return known if content is None else {**known, "dspy.example.input": content}


def test_the_same_example_has_the_same_id_in_each_evaluation() -> None:
    first, second = EvaluationRequests(), EvaluationRequests()
    one = first.id_of(example('{"question":"a","answer":"b"}', "one"))
    assert one == first.id_of(example('{"answer": "b", "question": "a"}', "two"))
    assert one == second.id_of(example('{"question":"a","answer":"b"}', "three"))
    assert len(one) == 32


def test_another_example_has_another_id() -> None:
    requests = EvaluationRequests()
    assert requests.id_of(example('{"a":1}')) != requests.id_of(example('{"a":2}'))


def test_equal_examples_of_one_evaluation_are_numbered() -> None:
    requests = EvaluationRequests()
    ids = [requests.id_of(example('{"a":1}')) for _ in range(3)]
    assert ids == [ids[0], f"{ids[0]}-1", f"{ids[0]}-2"]


def test_without_content_the_position_is_the_id() -> None:
    assert EvaluationRequests().id_of(example(None, index=7)) == "example-7"


def test_text_that_is_no_json_has_an_id() -> None:
    assert len(EvaluationRequests().id_of(example("not JSON \ud800"))) == 32
