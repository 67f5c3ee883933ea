# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Texts from outside on a log line or a terminal."""

from __future__ import annotations

import pytest

from mlflow_bridge._process.outside_text import outside_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u2028b", "a\\u2028b"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\ud800", "\\ud800"),
        ("Größe 中文 🙂", "Größe 中文 🙂"),
        (404, "404"),
    ],
)
def test_one_printable_line(text: object, shown: str) -> None:
    assert outside_text(text) == shown
    shown.encode()


def test_a_long_text_is_cut() -> None:
    assert outside_text("x" * 1000, limit=10) == "x" * 10 + "..."


def test_secrets_are_replaced_before_the_text_is_cut() -> None:
    text = "bad token abcdef-123456, and abcdef"
    assert outside_text(text, secrets=["abcdef", "abcdef-123456"]) == (
        "bad token [REDACTED], and [REDACTED]"
    )
    assert "secret" not in outside_text("x" * 8 + "secret", secrets=["secret"], limit=10)


def test_a_very_short_secret_garbles_no_word() -> None:
    assert outside_text("a database", secrets=["a", ""]) == "a database"


def test_an_object_whose_text_cannot_be_made() -> None:
    class Broken:
        def __str__(self) -> str:
            raise LookupError("no text")

    assert outside_text(Broken()) == "[unreadable Broken: LookupError]"
