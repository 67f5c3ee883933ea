# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A table, as it is printed and as it stands in a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading.

    Attributes:
        region: Which region of docs/performance.md it fills.
        title: What it shows.
        header: One text for each column.
        rows: As many texts each.
        note: A sentence below it.
    """

    region: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    files: Sequence[str] = field(default=())
    """Charts that belong to it, as file names beside the page."""


def as_text(table: Table) -> str:
    """With aligned columns, for a terminal."""
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
    """For a page; numbers to the right."""
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
    """Microseconds, with as many digits as mean something."""
    return f"{value:,.1f}" if abs(value) < 10 else f"{value:,.0f}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}{_TIMES}" if abs(value) < 10 else f"{value:.1f}{_TIMES}"


def percent(value: float) -> str:
    """A share, as a percentage with two decimals."""
    return f"{value * 100:.2f} %"
