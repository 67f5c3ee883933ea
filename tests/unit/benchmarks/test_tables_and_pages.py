# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tables as text and as Markdown, and the regions of a page that they fill."""

from __future__ import annotations

from importlib import import_module

import pytest

from benchmarks.pages import fill, regions_of
from benchmarks.tables import Table, as_markdown, as_text, micro, percent, times
from tests import ROOT

TABLE = Table("cost", "Title", ["program", "added"], [["Predict", "5"], ["RAG", "1,234"]], "Note.")
PAGE = "# Page\n<!-- begin a -->\nold\n<!-- end a -->\ntext\n<!-- begin b -->\n<!-- end b -->\n"


def test_text_has_aligned_columns() -> None:
    assert as_text(TABLE).splitlines() == [
        "Title",
        "",
        "program  added",
        "--------------",
        "Predict      5",
        "RAG      1,234",
        "Note.",
    ]


def test_markdown_has_the_note_and_the_charts() -> None:
    table = Table("cost", "Title", ["a", "b"], [["x", "1"]], "Note.", ("chart.svg",))

    assert as_markdown(table) == (
        "**Title**\n\n| a | b |\n|---|---:|\n| x | 1 |\n\nNote.\n\n![Title](chart.svg)"
    )


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert (micro(3.21), micro(1234.5)) == ("3.2", "1,234")
    assert (times(1.5), times(12.34)) == (
        "1.50\N{MULTIPLICATION SIGN}",
        "12.3\N{MULTIPLICATION SIGN}",
    )
    assert percent(0.0123) == "1.23 %"


def test_a_region_is_replaced_and_the_rest_of_the_page_stays() -> None:
    filled = fill(PAGE, {"a": "new"})

    assert filled == PAGE.replace("old", "new")
    assert fill(filled, {"a": "old"}) == PAGE


def test_a_region_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        fill(PAGE, {"nowhere": "text"})


def test_the_page_has_a_region_for_every_part_of_the_benchmarks() -> None:
    page = ROOT / "docs" / "performance.md"

    assert regions_of(page.read_text("utf-8")) == {
        *("cost", "cost-ours", "delivery-caller", "delivery-raw", "delivery-server"),
        *("delivery-sqlite", "environment", "goals", "growth", "instructions", "latency"),
        *("memory", "profile", "startup", "steps", "unsampled"),
    }


def test_every_part_that_can_be_chosen_is_there() -> None:
    for name in import_module("benchmarks.__main__").SECTIONS:
        section = import_module(f"benchmarks.sections.{name}")
        assert name == section.NAME
        assert callable(section.run)
        assert callable(section.tables)
