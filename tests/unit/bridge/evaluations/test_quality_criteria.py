# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The grammar of quality criteria, and the tag that MLflow's page reads."""

from __future__ import annotations

import json
import math

import pytest

from mlflow_bridge import ConfigurationError
from mlflow_bridge.evaluations.quality_criteria import Condition, criteria_tag, parse_criteria


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("correctness >= 0.9", [("correctness", ">=", 0.9)]),
        (
            "correctness >= 0.9 AND `latency/p90` <= 2",
            [("correctness", ">=", 0.9), ("latency/p90", "<=", 2.0)],
        ),
        ("a>1 and b<2 And c==3", [("a", ">", 1.0), ("b", "<", 2.0), ("c", "==", 3.0)]),
        ("  a != -1.5e-3\n", [("a", "!=", -0.0015)]),
        ("a>=.5", [("a", ">=", 0.5)]),
        ('"my metric" >= 1', [("my metric", ">=", 1.0)]),
        ("`AND` >= 1", [("AND", ">=", 1.0)]),
        ("android >= 1 AND ANDs <= 2", [("android", ">=", 1.0), ("ANDs", "<=", 2.0)]),
        ("a >= 1 AND a <= 2", [("a", ">=", 1.0), ("a", "<=", 2.0)]),
        ("`größe` >= 1", [("größe", ">=", 1.0)]),
    ],
)
def test_criteria(text: str, expected: list[tuple[str, str, float]]) -> None:
    found = parse_criteria(text)
    assert [(one.name, one.operator, one.threshold) for one in found] == expected


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        (">= 1", 1, "the name of a metric"),
        ("a 1", 3, "one of >="),
        ("a = 1", 3, "one of >="),
        ("a >= b", 6, "a number"),
        ("a >= 1x", 6, "a number"),
        ("a >= 1.2.3", 6, "a number"),
        ("a >=", 5, "a number"),
        ("a >= 1e999", 6, "a finite number"),
        ("a >= nan", 6, "a number"),
        ("a >= 1 b >= 2", 8, "AND or the end"),
        ("a >= 1 OR b >= 2", 8, "Only AND joins conditions"),
        ("a >= 1 AND", 11, "the name of a metric"),
        ("a >= 1 AND AND b >= 2", 12, "the name of a metric"),
        ("latency/p90 <= 2", 8, "in backticks"),
        ("`latency/p90 <= 2", 1, "the name of a metric"),
        ("`` >= 1", 1, "the name of a metric"),
        ("a >= 1; DROP TABLE runs", 7, "AND or the end"),
    ],
)
def test_an_error_has_its_position(text: str, position: int, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_criteria(text)
    assert f"at position {position}," in str(caught.value)
    assert expected in str(caught.value)
    assert "accepted" in str(caught.value)


@pytest.mark.parametrize("text", ["", "  ", None, 3])
def test_no_criteria_are_an_error(text: object) -> None:
    with pytest.raises(ConfigurationError, match="accepted: such as"):
        parse_criteria(text)


@pytest.mark.parametrize(
    ("sign", "met"),
    [
        (">=", [False, True, True]),
        (">", [False, False, True]),
        ("<=", [True, True, False]),
        ("<", [True, False, False]),
        ("==", [False, True, False]),
        ("!=", [True, False, True]),
    ],
)
def test_a_condition_holds(sign: str, met: list[bool]) -> None:
    condition = Condition("a", sign, 1.0)
    assert [condition.holds(value) for value in (0.5, 1.0, 2.0)] == met
    assert not condition.holds(math.nan)


def test_a_condition_is_shown_as_it_is_written() -> None:
    assert str(Condition("latency/p90", "<=", 2.0)) == "`latency/p90` <= 2"
    assert str(Condition("correctness", ">=", 0.9)) == "correctness >= 0.9"


def test_the_tag_has_the_form_of_mlflow() -> None:
    conditions = parse_criteria("correctness >= 0.9 AND `latency/p90` <= 2")
    keys = ["correctness/mean", "latency/p90"]
    value = criteria_tag(conditions, keys)
    assert value is not None
    known = json.loads(value)
    assert known.pop("revision")
    assert known == {
        "schemaVersion": 1,
        "rules": [
            {"metricKey": "correctness/mean", "comparator": "GTE", "threshold": 0.9},
            {"metricKey": "latency/p90", "comparator": "LTE", "threshold": 2.0},
        ],
    }
    assert criteria_tag(conditions, keys) == value


@pytest.mark.parametrize("text", ["a > 1", "a >= 1 AND b != 2", "a >= 1 AND a <= 2"])
def test_criteria_that_the_page_cannot_show_are_not_written(text: str) -> None:
    conditions = parse_criteria(text)
    assert criteria_tag(conditions, [one.name for one in conditions]) is None


def test_long_criteria_are_not_written() -> None:
    conditions = parse_criteria(" AND ".join(f"metric_{index} >= 1" for index in range(300)))
    assert criteria_tag(conditions, [one.name for one in conditions]) is None
