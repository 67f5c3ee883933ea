# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The table of surfaces in the documentation is complete, and each row of it has tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import dspy
import pytest
from dspy.teleprompt.teleprompt import Teleprompter

from opentelemetry.instrumentation.dspy.semconv import Operations
from tests import ROOT

_TABLE = ROOT / "docs" / "surfaces.md"
_MARK = re.compile(r'pytest\.mark\.surface\("([^"]+)"\)')
_VERSIONS = re.compile("3\\.[0-4](\\.[0-9])? \N{EN DASH}")
_COLUMNS = ["surface", "dspy", "span", "kind", "content", "mark"]
# Modules of DSPy that are not run as they are: they stand for others.
_NOT_RUN = {"Module", "KNNFewShot"}


def rows(columns: int) -> Iterator[list[str]]:
    """The rows of the tables with this number of columns, without their headings."""
    for line in _TABLE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == columns and cells[0] not in _HEADINGS:
            yield cells


_HEADINGS = {"surface", "where DSPy leaves the thread or the task"}


def test_every_row_is_filled_in() -> None:
    found = list(rows(len(_COLUMNS)))
    assert len(found) > 20
    for surface, versions, span, *_rest, mark in found:
        assert surface
        assert span
        assert mark, surface
        assert _VERSIONS.search(versions), f"{surface}: {versions!r} names no version"


def test_every_row_has_tests_and_every_mark_a_row() -> None:
    rows_by_mark = Counter(
        row[-1].strip("`") for columns in (3, len(_COLUMNS)) for row in rows(columns)
    )
    assert [mark for mark, count in rows_by_mark.items() if count > 1] == []
    files = (ROOT / "tests").rglob("test_*.py")
    marks = {mark for file in files for mark in _MARK.findall(file.read_text("utf-8"))}
    assert marks == rows_by_mark.keys()


def test_every_operation_has_a_row() -> None:
    spans = " ".join(row[2] for row in rows(len(_COLUMNS)))
    shown = {
        Operations.MODULE: "invoke_workflow",
        Operations.PREDICT: "Predict",
        Operations.ADAPTER: "`{adapter}`",
        Operations.ADAPTER_FORMAT: ".format`",
        Operations.ADAPTER_PARSE: ".parse`",
        Operations.LM: "chat {model}",
        Operations.TOOL: "execute_tool {name}",
        Operations.EMBEDDING: "embeddings {model}",
        Operations.INTERPRETER: "run_code {type}",
    }
    for name, value in vars(Operations).items():
        if name.isupper():
            assert shown.get(value, value) in spans, value


@pytest.mark.parametrize(
    "base", [dspy.Module, dspy.Adapter, Teleprompter], ids=lambda base: base.__name__
)
def test_every_class_of_dspys_own_has_a_row(base: type) -> None:
    text = _TABLE.read_text("utf-8")
    public = {name for name in dir(dspy) if isinstance(getattr(dspy, name), type)}
    ours = {name for name in public if issubclass(getattr(dspy, name), base)} - _NOT_RUN
    assert ours
    assert {name for name in ours if name.removesuffix("Adapter") not in text} == set()
