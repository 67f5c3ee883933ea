# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that resist being written down: the program goes on, the attribute is valid and short."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import dspy
import pytest

from tests.unit.instrumentation.conftest import TraceWith
from tests.unit.instrumentation.encoding import LIMIT, encoded


class Raising:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Lying:
    """Says it is something else, and fails when asked."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class OddMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class OddKey:
    def __hash__(self) -> int:
        return 1

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@dataclasses.dataclass
class OddField:
    value: Any

    def __getattribute__(self, name: str) -> Any:
        if name == "value":
            raise RuntimeError("not there")
        return super().__getattribute__(name)


def cyclic() -> Any:
    cycle: dict[str, Any] = {"name": "x"}
    cycle["self"] = [cycle]
    return cycle


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


class SelfReferring:
    def __init__(self) -> None:
        self.me = self


HOSTILE = {
    "repr raises": (Raising(), ["[unreadable Raising]"], False),
    "class raises": (Lying(), ["[unreadable Lying]"], False),
    "mapping raises": (OddMapping(), ["[unreadable OddMapping]"], False),
    "key raises": ({OddKey(): 1}, [{"[unreadable OddKey]": 1}], False),
    "field raises": (OddField(1), ["[unreadable OddField]"], False),
    "cycle": (cyclic(), [{"name": "x", "self": ["[cycle]"]}], False),
    "self": (SelfReferring(), None, False),
    "lone surrogate": ("a\ud800b", None, False),
    "lone surrogate as key": ({"a\ud800": 1}, None, False),
    "long text": ("x" * 10_000_000, None, True),
    "long key": ({"k" * 1_000_000: 1}, None, True),
    "long bytes": (b"x" * 10_000_000, ["[10000000 bytes]"], False),
    "5,000 digits": (10**5_000, [f"[integer of {(10**5_000).bit_length()} bits]"], False),
    "5,000 digits as key": ({10**5_000: 1}, None, False),
    "nesting": (nested(3_000), None, True),
    "many items": (list(range(1_000_000)), None, True),
    "many keys": ({str(number): number for number in range(100_000)}, None, True),
    "many escapes": ("\x00" * 9_000, None, True),
    "many emoji": ("🙂" * 1_000_000, None, True),
}


@pytest.mark.parametrize(("value", "read", "cut"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_values(value: Any, read: Any, cut: bool) -> None:
    result, truncated = encoded([value])
    if read is not None:
        assert result == read
    assert truncated == (["a.input"] if cut else [])


@pytest.mark.parametrize(("value", "read", "cut"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_inputs_of_a_program(
    trace_with: TraceWith, value: Any, read: Any, cut: bool
) -> None:
    class Program(dspy.Module):
        def forward(self, value: Any) -> Any:
            return [value]

    traced = trace_with(max_content_length=LIMIT)
    (result,) = Program()(value=value)
    assert result is value
    attributes = traced.attributes("invoke_workflow Program")
    for name in ("dspy.module.input", "dspy.module.output"):
        assert len(attributes[name]) <= LIMIT
    shortened = {"dspy.module.input", "dspy.module.output"} if cut else set()
    assert set(attributes.get("dspy.truncated", ())) == shortened


@pytest.mark.parametrize("limit", [64, 65, 100, 1_000])
@pytest.mark.parametrize(
    "value",
    [
        "x" * 5_000,
        ["x" * 50] * 100,
        {"a": {"b": ["text" * 100] * 10}},
        {f"key {number}": "\n" * 10 for number in range(200)},
        "\x01" * 500,
        {"k" * 500: {"k" * 500: 1}},
        [[[[["x" * 30] * 3] * 3] * 3] * 3],
    ],
    ids=lambda value: repr(value)[:20],
)
def test_every_limit_is_kept(value: Any, limit: int) -> None:
    _, truncated = encoded(value, limit)
    assert truncated == ["a.input"]
