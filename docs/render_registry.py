# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The registry of names -> Markdown tables.

The registry has the shape of the OpenTelemetry semantic-convention registry: files with a list of
``groups``, each of which defines attributes (``id``) or uses ones defined elsewhere (``ref``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Group = Mapping[str, Any]

_HEADINGS = {
    "attribute_group": "Attributes",
    "span": "Spans",
    "event": "Events",
    "metric": "Metrics",
}


def render(registry: Path) -> str:
    """All groups of the YAML files in a directory as Markdown, by kind of group.

    Raises:
        ValueError: a group is of a kind that has no place on the page.
    """
    files = sorted(registry.glob("*.yaml"))
    groups = [group for file in files for group in _groups(file)]
    strange = {group["type"] for group in groups} - _HEADINGS.keys()
    if strange:
        raise ValueError(f"groups of unknown types in {registry}: {sorted(strange)}")
    attributes = [entry for group in groups for entry in _attributes(group)]
    defined = {entry["id"]: entry for entry in attributes if "id" in entry}
    lines: list[str] = []
    for kind, heading in _HEADINGS.items():
        chosen = [group for group in groups if group["type"] == kind]
        if chosen:
            lines += [f"## {heading}", ""]
        for group in chosen:
            lines += [*_section(group, defined), ""]
    return "\n".join(lines)


def _groups(file: Path) -> list[Group]:
    return yaml.safe_load(file.read_text("utf-8"))["groups"]


def _attributes(group: Group) -> list[Mapping[str, Any]]:
    return group.get("attributes") or []


def _section(group: Group, defined: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {_title(group)}"
    yield ""
    yield from _paragraphs(group.get("brief"), group.get("note"))
    facts = [
        f"{label}: `{group[key]}`"
        for label, key in (("Kind", "span_kind"), ("Instrument", "instrument"), ("Unit", "unit"))
        if key in group
    ]
    if facts:
        yield from ("; ".join(facts) + ".", "")
    entries = [_resolved(entry, defined) for entry in _attributes(group)]
    if entries:
        yield from _table(entries)
        yield ""
    for entry in entries:
        yield from _members(entry)


def _title(group: Group) -> str:
    return f"`{group.get('metric_name') or group['id'].removeprefix('registry.')}`"


def _resolved(entry: Mapping[str, Any], defined: Mapping[str, Any]) -> dict[str, Any]:
    """A use of an attribute, with what its definition says where the use says nothing."""
    name = entry.get("id") or entry["ref"]
    return {"name": name, **defined.get(name, {}), **entry}


def _table(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "attribute": lambda entry: f"`{entry['name']}`",
        "type": _type,
        "requirement": _requirement,
        "meaning": lambda entry: " ".join(_paragraphs(entry.get("brief"), entry.get("note"))),
        "examples": _examples,
    }
    if not any("requirement_level" in entry for entry in entries):
        del columns["requirement"]
    yield _line(columns)
    yield _line("---" for _ in columns)
    for entry in entries:
        yield _line(write(entry) for write in columns.values())


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"


def _members(entry: Mapping[str, Any]) -> Iterator[str]:
    kind = entry.get("type")
    if not isinstance(kind, Mapping):
        return
    yield from (f"`{entry['name']}` is one of:", "", "| value | meaning |", "|---|---|")
    for member in kind["members"]:
        yield _line((f"`{member['value']}`", member.get("brief", "")))
    yield ""


def _type(entry: Mapping[str, Any]) -> str:
    kind = entry.get("type", "")
    return "string" if isinstance(kind, Mapping) else str(kind)


def _requirement(entry: Mapping[str, Any]) -> str:
    """A level, or one with its condition: ``{conditionally_required: if ...}``."""
    level = entry.get("requirement_level", "recommended")
    if not isinstance(level, Mapping):
        return level.replace("_", " ")
    (name, condition), *_ = level.items()
    return f"{name.replace('_', ' ')}: {condition}"


def _examples(entry: Mapping[str, Any]) -> str:
    examples = entry.get("examples", [])
    values = examples if isinstance(examples, list) else [examples]
    return ", ".join(f"`{_literal(value)}`" for value in values)


def _literal(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _paragraphs(*texts: str | None) -> Iterator[str]:
    for text in texts:
        if text:
            yield from (" ".join(text.split()), "")
