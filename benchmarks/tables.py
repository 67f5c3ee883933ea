# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A table, as text for a terminal and as Markdown for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading.

    Attributes:
        region: The region of docs/performance.md that the table fills.
        title: The heading.
        header: One text for each column.
        rows: The same number of texts for each row.
        note: A sentence below the table.
    """

    region: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    files: Sequence[str] = field(default=())
    """Charts of the table, as file names in the directory of the page."""


def as_text(table: Table) -> str:
    """Format a table with aligned columns, for a terminal."""
    lines = [list(table.header), *(list(row) for row in table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    body = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(len(line) for line in body)
    parts = [table.title, "", body[0], rule, *body[1:]]
    return "\n".join([*parts, *([table.note] if table.note else []), ""])


def as_markdown(table: Table) -> str:
    """Format a table for a page, with numbers aligned to the right."""
    head = "| " + " | ".join(table.header) + " |"
    rule = "|---|" + "---:|" * (len(table.header) - 1)
    rows = ["| " + " | ".join(row) + " |" for row in table.rows]
    parts = [f"**{table.title}**", "", head, rule, *rows]
    if table.note:
        parts += ["", table.note]
    for name in table.files:
        parts += ["", f"![{table.title}]({name})"]
    return "\n".join(parts)


def micro(value: float) -> str:
    """Format microseconds with the significant digits."""
    return f"{value:,.1f}" if abs(value) < 10 else f"{value:,.0f}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}{_TIMES}" if abs(value) < 10 else f"{value:.1f}{_TIMES}"


def percent(value: float) -> str:
    """Format a share as a percentage with two decimals."""
    return f"{value * 100:.2f} %"
