# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The invariants of delivery, as the docstring of the package lists them, and their tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mlflow_bridge import _delivery
from tests import ROOT

TESTS = ROOT / "tests"
INVARIANT = re.compile(r"^\*\*D(\d+)\.\*\* ", re.MULTILINE)
TEST = re.compile(r"^- ``(\S+\.py)::(\w+)``$", re.MULTILINE)

# The text before the first number, then number and text in turns.
_, *_PARTS = INVARIANT.split(_delivery.__doc__ or "")
TESTS_OF = {
    int(number): TEST.findall(text) for number, text in zip(_PARTS[::2], _PARTS[1::2], strict=True)
}


def test_the_invariants_are_numbered_one_by_one() -> None:
    assert list(TESTS_OF) == list(range(1, len(TESTS_OF) + 1))
    assert len(TESTS_OF) >= 10


@pytest.mark.parametrize("number", TESTS_OF, ids="D{}".format)
def test_each_invariant_names_tests_that_exist(number: int) -> None:
    assert TESTS_OF[number]
    for file, test in TESTS_OF[number]:
        [path] = TESTS.rglob(file)
        assert test in _names_in(path)


def test_every_line_of_the_lists_is_read() -> None:
    lines = re.findall(r"^- ", _delivery.__doc__ or "", re.MULTILINE)
    assert len(lines) == sum(map(len, TESTS_OF.values()))


def _names_in(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names
