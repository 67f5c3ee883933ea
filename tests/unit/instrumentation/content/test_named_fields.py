# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The value of a field is hidden in a text wherever the text names the field."""

from __future__ import annotations

import json

import pytest

from opentelemetry.instrumentation.dspy._content.named_fields import NamedField

HIDDEN = "[REDACTED]"


def hide(text: str, name: str = "ssn") -> str:
    return NamedField(name).hide(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "[[ ## ssn ## ]]\n7\n\n[[ ## q ## ]]\n8",
            f"[[ ## ssn ## ]]\n{HIDDEN}\n\n[[ ## q ## ]]\n8",
        ),
        ("[[ ## ssn ## ]] 7\n[[ ## q ## ]]\n8", f"[[ ## ssn ## ]]\n{HIDDEN}\n\n[[ ## q ## ]]\n8"),
        ("LM Response: [[ ## ssn ## ]]\n7", f"LM Response: [[ ## ssn ## ]]\n{HIDDEN}\n"),
        ("[[ ## ssn ## ]]\\n7\\n[[ ## q ## ]]", f"[[ ## ssn ## ]]\n{HIDDEN}\n\\n[[ ## q ## ]]"),
        ("<ssn>7\n</ssn><q>8</q>", f"<ssn>{HIDDEN}</ssn><q>8</q>"),
        ("<ssn>7 is cut", f"<ssn>{HIDDEN}"),
        ('{"ssn": "7", "q": "8"}', f'{{"ssn": "{HIDDEN}", "q": "8"}}'),
        ('{"ssn": 7.5}', f'{{"ssn": "{HIDDEN}"}}'),
        ('{"ssn": null}', f'{{"ssn": "{HIDDEN}"}}'),
        ('{"ssn": {"a": ["7]", "{"]}, "q": 8}', f'{{"ssn": "{HIDDEN}", "q": 8}}'),
        ('{"ssn": ["7", "x"', f'{{"ssn": "{HIDDEN}"'),
        ("{'ssn': '7', 'q': 8}", f"{{'ssn': '{HIDDEN}', 'q': 8}}"),
        ("Record(ssn='7', q=8)", f"Record(ssn='{HIDDEN}', q=8)"),
        ("Record(ssn=Number(7, 'x'), q=8)", f"Record(ssn='{HIDDEN}', q=8)"),
        ("ssn: 7 8\nq: 9", f"ssn: {HIDDEN}\nq: 9"),
        ("- ssn: 7", f"- ssn: {HIDDEN}"),
    ],
)
def test_a_value_is_hidden(text: str, shown: str) -> None:
    assert hide(text) == shown


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("value", ["7", 'say "7"', {"deep": ["7"]}, True, -7])
def test_json_inside_of_json_stays_json(levels: int, value: object) -> None:
    text = json.dumps({"ssn": value, "q": 8})
    for _ in range(levels):
        text = json.dumps({"text": text})
    found = hide(text)
    for _ in range(levels):
        found = json.loads(found)["text"]
    assert json.loads(found) == {"ssn": HIDDEN, "q": 8}


@pytest.mark.parametrize(
    "text",
    [
        "1. `ssn` (str): the number",
        "Respond with the field `[[ ## ssn ## ]]`, and then end.",
        "in XML tags `<ssn>`.",
        '{"other_ssn": "7", "ssn_of": "8"}',
        "Record(other_ssn='7')",
        "<other_ssn>7</other_ssn>",
        "[[ ## other_ssn ## ]]\n7",
        "the ssn is a number",
    ],
)
def test_what_is_no_value_of_the_field_is_left_alone(text: str) -> None:
    assert hide(text) == text


def test_a_header_inside_of_a_value_does_not_end_it() -> None:
    text = "[[ ## ssn ## ]]\n7 [[ ## q ## ]] 8\n[[ ## q ## ]]\n9"
    assert hide(text) == f"[[ ## ssn ## ]]\n{HIDDEN}\n\n[[ ## q ## ]]\n9"


@pytest.mark.parametrize(
    "text",
    [
        '"ssn": [' * 20_000,
        "[[ ## ssn ## ]]" * 20_000,
        "<ssn>" * 40_000,
        "ssn=" * 50_000,
        '"ssn":' + "\\" * 100_000,
        "ssn:" + " " * 100_000,
    ],
    ids=["brackets", "headers", "tags", "equals", "backslashes", "blanks"],
)
def test_long_texts_take_time_in_proportion(text: str) -> None:
    # Quadratic time would exceed the time limit of the whole run.
    assert len(hide(text)) < 3 * len(text)
