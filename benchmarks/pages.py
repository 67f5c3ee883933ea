# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Fill the marked regions of a page, and leave every other line unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping

_REGION = re.compile(
    r"(<!-- begin (?P<name>[a-z0-9-]+) -->\n)(?P<body>.*?)(<!-- end (?P=name) -->)", re.DOTALL
)


def fill(page: str, regions: Mapping[str, str]) -> str:
    """Return the page with new text in these regions.

    A region begins with ``<!-- begin name -->`` and ends with ``<!-- end name -->``, each on a
    line of its own. Regions that are not given stay as they are.

    Raises:
        ValueError: The page has no such region.
    """
    missing = regions.keys() - {match["name"] for match in _REGION.finditer(page)}
    if missing:
        raise ValueError(f"no region {', '.join(sorted(missing))}")

    def text_of(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in regions:
            return match[0]
        return f"{match[1]}{regions[name].rstrip()}\n{match[4]}"

    return _REGION.sub(text_of, page)


def regions_of(page: str) -> set[str]:
    """The names of the page's regions."""
    return {match["name"] for match in _REGION.finditer(page)}
