# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The page that compares both says what MLflow shows, where theirs is ahead as well."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from tests.integration.beside.measured import PAGE, measure, measured_part, versions, write

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]


def test_the_page_says_what_both_show(tmp_path: Path) -> None:
    on_page = measured_part(PAGE.read_text("utf-8"))
    assert on_page
    if versions() not in on_page:
        pytest.skip("the page is of other releases: python -m tests.integration.beside --write")
    assert measure(tmp_path) == on_page, "python -m tests.integration.beside --write"


def test_only_the_measured_part_of_a_page_is_written(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    before, part, after = PAGE.read_text("utf-8").partition(measured_part(PAGE.read_text("utf-8")))
    page.write_text(before + part + after, "utf-8")
    write(page, "new\n")
    assert page.read_text("utf-8") == before + "new\n" + after
