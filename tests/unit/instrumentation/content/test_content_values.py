# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Any value of a program becomes bounded, valid JSON, and the program never notices."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import uuid
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from typing import Any

import dspy
import pydantic
import pytest

from tests.unit.instrumentation.encoding import LIMIT, encoded


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Kind(str, enum.Enum):
    A = "a"


@dataclasses.dataclass
class Point:
    x: int
    label: str = "p"


@dataclasses.dataclass(slots=True)
class SlottedPoint:
    x: int


class Person(pydantic.BaseModel):
    name: str
    born: datetime.date | None = None


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    name: str


class Plain:
    pass


class Described:
    def __repr__(self) -> str:
        return "<described>"


Pair = namedtuple("Pair", "left right")
DAY = datetime.date(2025, 1, 2)

PLAIN = [
    (None, None),
    (True, True),
    (1, 1),
    (1.5, 1.5),
    ("text", "text"),
    ("", ""),
    ("emoji 🙂 \u2028 \x00", "emoji 🙂 \u2028 \x00"),
    ([], []),
    ({}, {}),
    ([1, ["a", None]], [1, ["a", None]]),
    ((1, 2), [1, 2]),
    ({3}, [3]),
    (frozenset({3}), [3]),
    (Pair(1, 2), [1, 2]),
    ({"a": {"b": [1]}}, {"a": {"b": [1]}}),
    (OrderedDict(a=1), {"a": 1}),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (UserDict(a=1), {"a": 1}),
    ({1: "a", None: "b", 2.5: "d"}, {"1": "a", "None": "b", "2.5": "d"}),
    ({("a", 1): "x"}, {"('a', 1)": "x"}),
    (Colour.RED, "red"),
    (Level.LOW, 1),
    (Kind.A, "a"),
    (DAY, "2025-01-02"),
    (datetime.datetime(2025, 1, 2, 3, 4), "2025-01-02 03:04:00"),
    (datetime.timedelta(seconds=1), "0:00:01"),
    (decimal.Decimal("1.10"), "1.10"),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (pathlib.PurePosixPath("/a/b"), "/a/b"),
    (b"12345", "[5 bytes]"),
    (bytearray(b"12"), "[2 bytes]"),
    (Point(1), {"x": 1, "label": "p"}),
    (SlottedPoint(1), {"x": 1}),
    (Person(name="n", born=DAY), {"name": "n", "born": "2025-01-02"}),
    (Open(name="n", more=1), {"name": "n", "more": 1}),
    (Described(), "<described>"),
    (dspy.Example(a=1, b="x").with_inputs("a"), {"a": 1, "b": "x"}),
    (dspy.Prediction(answer="x"), {"answer": "x"}),
    (2**62, 2**62),
    (2**100, str(2**100)),
    (-(2**100), str(-(2**100))),
    (float("nan"), None),
    (float("inf"), None),
]


@pytest.mark.parametrize(("value", "read"), PLAIN, ids=lambda value: repr(value)[:30])
def test_values(value: Any, read: Any) -> None:
    assert encoded(value) == (read, [])


def function() -> None:
    pass


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (Plain(), "Plain"),
        (Plain, "Plain"),
        (function, "function"),
        (Point(1).__init__, "__init__"),
        (len, "len"),
        (json, "json"),
        (iter([]), "iterator"),
        (dspy.Signature("a -> b"), "StringSignature"),
    ],
)
def test_what_is_code_or_has_no_text_is_named(value: Any, part: str) -> None:
    text, truncated = encoded(value)
    assert part in text
    assert "0x" not in text
    assert truncated == []


def test_a_tool_is_its_description() -> None:
    def search(query: str) -> str:
        """Looks it up."""
        return query

    described, _ = encoded([dspy.Tool(search)])
    assert described[0]["name"] == "search"
    assert described[0]["desc"] == "Looks it up."
    assert set(described[0]["args"]) == {"query"}


def test_what_fits_is_not_touched() -> None:
    text = "x" * (LIMIT - 100)
    assert encoded(text) == (text, [])
    assert encoded({"a": text}) == ({"a": text}, [])


def test_the_beginning_of_a_long_text_is_kept() -> None:
    text, _ = encoded("start " + "x" * 100_000)
    assert text.startswith("start xxx")
    assert text.endswith("more characters]")


def test_values_are_left_as_they_are() -> None:
    given = {"list": [1, {"a": (2,)}], "set": {3}}
    before = repr(given)
    encoded(given)
    assert repr(given) == before


def test_lazy_values_are_not_consumed() -> None:
    generator = (number for number in range(3))
    encoded({"lazy": generator, "map": map(str, [1])})
    assert list(generator) == [0, 1, 2]


def test_an_image_is_its_size_and_hash() -> None:
    photo = dspy.Image(url="data:image/png;base64," + "A" * 5_000)
    recorded, truncated = encoded({"photo": photo})
    assert recorded["photo"]["url"].startswith("data:image/png;base64,[5000 characters, sha256 ")
    assert truncated == []


def test_equal_images_have_equal_hashes() -> None:
    def address(payload: str) -> str:
        return encoded("data:image/png;base64," + payload)[0]

    assert address("A" * 500) == address("A" * 500)
    assert address("A" * 500) != address("B" * 500)
    assert address("AAAA") != address("BBBB")
