# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Every news fragment has a name that towncrier accepts, in a directory that it reads."""

from __future__ import annotations

import re

import tomli

from tests import ROOT

CONFIGURATION = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["towncrier"]
FRAGMENTS = ROOT / CONFIGURATION["directory"]
SECTIONS = {section["path"] for section in CONFIGURATION["section"]}
TYPES = {kind["directory"] for kind in CONFIGURATION["type"]}
NAME = re.compile(rf"(\+[a-z0-9-]+|[0-9]+)\.({'|'.join(TYPES)})\.md")


def fragments() -> list[str]:
    files = (file for file in FRAGMENTS.rglob("*") if file.is_file())
    return sorted(str(file.relative_to(FRAGMENTS)) for file in files if file.name != "README.md")


def test_every_fragment_has_a_section_and_a_type() -> None:
    wrong = [
        name
        for name in fragments()
        if name.count("/") != 1
        or name.split("/")[0] not in SECTIONS
        or not NAME.fullmatch(name.split("/")[1])
    ]

    assert wrong == []


def test_every_fragment_has_a_text() -> None:
    assert [name for name in fragments() if not (FRAGMENTS / name).read_text("utf-8").strip()] == []


def test_every_section_and_type_is_explained() -> None:
    page = (FRAGMENTS / "README.md").read_text("utf-8")

    assert {name for name in SECTIONS | TYPES if f"| `{name}` |" not in page} == set()


def test_towncrier_finds_the_place_of_a_new_release() -> None:
    assert CONFIGURATION["start_string"] in (ROOT / "CHANGELOG.md").read_text("utf-8")
