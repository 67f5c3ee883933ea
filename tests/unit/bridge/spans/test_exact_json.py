# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math

import orjson
import pytest

from mlflow_bridge._spans.annotation import Annotation, annotation_of
from mlflow_bridge._spans.exact_json import decoded, encoded


@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.0, "x", 2**63 - 1, 2**63, -(2**70), [2**70, {"a": 10**400}], {"1": []}],
)
def test_a_value_stays_exact_in_other_parsers(value: object) -> None:
    read = orjson.loads(orjson.dumps(encoded(value)))
    assert json.dumps(decoded(read)) == json.dumps(value)


def test_numbers_that_json_does_not_have() -> None:
    read = orjson.loads(orjson.dumps(encoded([math.nan, math.inf, -math.inf])))
    assert json.dumps(decoded(read)) == "[NaN, Infinity, -Infinity]"


def test_a_redacted_number_is_a_text() -> None:
    assert decoded({"mlflow_bridge.number": "[redacted]"}) == "[redacted]"


def test_an_annotation_with_half_a_surrogate_pair() -> None:
    annotation = Annotation("tr-1", tag=("key", "\ud800"))
    assert annotation_of(annotation.as_span(1)).tag == ("key", "\ud800")
