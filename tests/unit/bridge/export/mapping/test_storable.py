# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow gets a value that it can store, search and show, whatever an attribute holds."""

from __future__ import annotations

import enum
import json
import math
from types import MappingProxyType
from typing import Any

import pytest

from mlflow_bridge._export.mapping.storable import (
    JsonText,
    clean_text,
    json_text,
    parsed_json,
    storable,
)

LIMIT = 1000


def type_name(value: object) -> str:
    """Test ids: pytest would put the values themselves there, as hostile as they are."""
    return type(value).__name__


class Colour(str, enum.Enum):
    RED = "red"

    def __str__(self) -> str:
        raise RuntimeError


class Unreadable:
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text", "text"),
        ("", ""),
        ("005", "005"),
        ("5", "5"),
        ("true", "true"),
        (True, True),
        (5, 5),
        (0.5, 0.5),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        (-(2**63), -(2**63)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (1 << 20_000, "[integer of 20001 bits]"),
        ("a\x00b", "a\ufffdb"),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("東京", "東京"),
        (b"bytes", "bytes"),
        (b"\xff\xfe", "//4="),
        (("a", "b"), ["a", "b"]),
        ([1, math.nan], [1, "NaN"]),
        ([], []),
        ([1, None], "[1,null]"),
        (["a", ["b"]], '["a",["b"]]'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (Colour.RED, "red"),
        (Unreadable(), "[unreadable Unreadable]"),
        (None, None),
    ],
    ids=type_name,
)
def test_value(value: Any, expected: Any) -> None:
    stored = storable(value, LIMIT)
    assert stored == expected
    assert type(stored) is type(expected) or type(stored) is JsonText


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", '"quoted"', ' {"a": "東京"}'])
def test_text_that_is_json_stays_the_document_that_it_is(text: str) -> None:
    stored = storable(text, LIMIT)
    assert isinstance(stored, JsonText)
    assert json.loads(stored) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "document"),
    [
        (r'{"a": "\u6771\u4eac"}', {"a": "東京"}),
        (r'["\ud800"]', ["\ufffd"]),
        (r'["\ud83d\ude00"]', ["😀"]),
        (r'{"\u0000": "a\u0000b"}', {"\ufffd": "a\ufffdb"}),
        ('{"a": NaN, "b": -Infinity}', {"a": "NaN", "b": "-Infinity"}),
        ('["NaN"]', ["NaN"]),
        ('["\x00"]'.replace("\x00", "\\u0000"), ["\ufffd"]),
        ("[" + "9" * 5000 + "]", ["9" * 5000]),
    ],
    ids=type_name,
)
def test_json_is_cleaned_of_what_hides_in_it(text: str, document: Any) -> None:
    stored = storable(text, 10_000)
    assert isinstance(stored, JsonText)
    assert json.loads(stored) == document
    assert "\\u" not in stored


@pytest.mark.parametrize("text", ["{not json", "[ ## answer ## ]", '"', "[1, 2"])
def test_text_that_only_looks_like_json_is_text(text: str) -> None:
    stored = storable(text, LIMIT)
    assert stored == text
    assert not isinstance(stored, JsonText)


def test_nesting_that_breaks_parsers_is_cut() -> None:
    deep = "[" * 300 + "1" + "]" * 300
    stored = storable(deep, LIMIT)
    assert isinstance(stored, JsonText)
    document, depth = json.loads(stored), 0
    while isinstance(document, list):
        document, depth = document[0], depth + 1
    assert (document, depth) == ("[nested too deep]", 24)


def test_nesting_within_reason_is_kept() -> None:
    text = "[" * 24 + "1" + "]" * 24 + " " * 100
    assert storable(text, LIMIT) == text
    wide = json.dumps([[{"a": [1]}]] * 50)
    assert storable(wide, 10_000) == wide


def test_nesting_that_python_cannot_parse_is_no_json_to_mlflow() -> None:
    stored = storable("[" * 100_000, 1_000_000)
    assert isinstance(stored, str)
    with pytest.raises(json.JSONDecodeError):
        json.loads(stored)


@pytest.mark.parametrize(
    "text",
    ["x" * 50_000, "東" * 50_000, "\ud800" * 50_000, "a\x00" * 9_000],
    ids=["ascii", "utf-8", "surrogates", "nul"],
)
@pytest.mark.parametrize("limit", [64, 200, 5_000])
def test_long_text_is_cut_with_a_note(text: str, limit: int) -> None:
    stored = clean_text(text, limit)
    assert len(stored.encode()) <= limit
    assert limit < 200 or "more characters]" in stored


@pytest.mark.parametrize(
    "value",
    [
        {"text": "x" * 50_000},
        {"text": "東" * 50_000},
        {"text": '"\n' * 50_000},
        ["x" * 100] * 5_000,
        {f"key {index}": index for index in range(5_000)},
        {"a": [{"b": ["c" * 90] * 90}] * 90},
        "x" * 50_000,
        {"k" * 50_000: 1},
        list(range(50_000)),
        [[[[["x"] * 20] * 20] * 20] * 20],
    ],
    ids=type_name,
)
@pytest.mark.parametrize("limit", [1_024, 10_000])
def test_large_json_is_cut_and_stays_json(value: Any, limit: int) -> None:
    stored = json_text(value, limit)
    assert len(stored.encode()) <= limit
    json.loads(stored)


def test_cut_json_keeps_its_shape() -> None:
    value = {"messages": [{"role": "user", "content": "x" * 50_000}], "temperature": 0.7}
    kept = json.loads(json_text(value, 2_000))
    assert kept["temperature"] == 0.7
    assert kept["messages"][0]["role"] == "user"
    assert "more characters]" in kept["messages"][0]["content"]


def test_large_json_text_is_cut_and_stays_json() -> None:
    stored = storable(json.dumps({"text": "x" * 50_000, "score": 1}), 2_000)
    assert isinstance(stored, JsonText)
    assert len(stored) <= 2_000
    assert json.loads(stored)["score"] == 1


def test_long_list_is_bounded() -> None:
    stored = storable(["x" * 100] * 1_000, LIMIT)
    assert isinstance(stored, JsonText)
    assert len(stored) <= LIMIT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('{"a": 1}', {"a": 1}),
        ("5", 5),
        ("null", None),
        ("text", "text"),
        ("[" * 100_000, "[" * 100_000),
        (7, 7),
        ("9" * 5_000, "9" * 5_000),
    ],
    ids=type_name,
)
def test_parsed_json(value: Any, expected: Any) -> None:
    assert parsed_json(value) == expected
