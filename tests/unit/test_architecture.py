# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The page on architecture lists the rooms and modules that are there, and no others."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests import ROOT

PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = {
    "Rooms of the instrumentation": ROOT
    / "opentelemetry-instrumentation-dspy/src/opentelemetry/instrumentation/dspy",
    "Rooms of the bridge": ROOT / "mlflow_bridge/src/mlflow_bridge",
}
ROW = re.compile(r"^\|([^|]*)\|([^|]+)\|[^|]+\|$", re.MULTILINE)


def listed(heading: str) -> dict[str, set[str]]:
    """The modules of each room, as the table below a heading has them."""
    section = PAGE.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rooms: dict[str, set[str]] = defaultdict(set)
    room = ""
    for first, modules in ROW.findall(section)[2:]:
        named = first.strip("` ")  # empty where a row goes on with the room above
        room = "" if named == "(top)" else named or room
        rooms[room] |= set(re.findall(r"`(\w+)`", modules))
    return rooms


def there(package: Path) -> dict[str, set[str]]:
    """The modules of each room in the tree; that a folder is a package goes without saying."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for path in package.rglob("*.py"):
        room = path.parent.relative_to(package).as_posix()
        if path.name != "__init__.py" or room == ".":
            rooms["" if room == "." else room].add(path.stem)
    return rooms


@pytest.mark.parametrize("heading", PACKAGES)
def test_the_page_lists_every_module_in_its_room(heading: str) -> None:
    assert listed(heading) == there(PACKAGES[heading])


def test_the_instrumentation_does_not_import_the_sdk() -> None:
    [package, _] = PACKAGES.values()
    sources = {path: path.read_text("utf-8") for path in package.rglob("*.py")}
    imports = re.compile(r"^\s*(?:from|import) opentelemetry\.sdk\b", re.MULTILINE)
    assert [path for path, source in sources.items() if imports.search(source)] == []
