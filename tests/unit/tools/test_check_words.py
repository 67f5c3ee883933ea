# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The check of words reads prose only, and names the line, the word and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import ROOT
from tools.check_words import RULES, files, main, page_findings, source_findings


def words_of_page(text: str) -> list[tuple[int, str]]:
    return [(finding.line, finding.word) for finding in page_findings(text)]


def words_of_source(source: str) -> list[tuple[int, str]]:
    return [(finding.line, finding.word) for finding in source_findings(source)]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a machine of one's own", "of one's own"),
        ("None if the value is none.", "is none"),
        ("None for what is no number.", "for what is no"),
        ("in the context of whoever calls this", "whoever"),
        ("nobody's file", "nobody's"),
        ("leaves some to those who cannot", "those who"),
        ("Instrumentation became dearer.", "dearer"),
        ("It tells of samplers.", "tells of"),
        ("The batch is thrown away.", "thrown away"),
        ("one thread is enough, be it the first", "be it"),
        ("the same call, how often ever it is made", "how often ever"),
        ("An exception, KeyboardInterrupt for one.", "KeyboardInterrupt for one"),
        ("so many spans", "so many"),
        ("the very object", "the very"),
    ],
)
def test_a_word_is_found(text: str, word: str) -> None:
    assert words_of_page(text) == [(1, word)]


@pytest.mark.parametrize(
    "text",
    [
        "Empty if there is none.",
        "The value is None.",
        "Processes for what is measured.",
        "MLflow asks for one.",
        "It may be a list.",
        "Every person may read it.",
    ],
)
def test_a_common_phrase_is_not_found(text: str) -> None:
    assert words_of_page(text) == []


def test_a_phrase_may_be_broken_across_two_lines() -> None:
    assert words_of_page("First.\nIt is the\nvery same.") == [(2, "the very")]
    assert words_of_source("# It is the\n# very same.\n") == [(1, "the very")]
    assert words_of_source('raise ValueError("It is the " "very same.")\n') == [(1, "the very")]


def test_code_in_a_page_is_not_read() -> None:
    page = """
`nobody`, [a link](whoever.md), https://example.com/nobody

```python
nobody = "whoever"
```

<!-- begin table -->
whoever
<!-- end table -->

nobody
"""
    assert words_of_page(page) == [(12, "nobody")]


def test_literal_blocks_of_restructured_text_are_not_read() -> None:
    assert words_of_page("Usage::\n\n    nobody\n\nnobody\n") == [(5, "nobody")]
    assert words_of_page(".. code-block:: sh\n\n    nobody\n\nnobody\n") == [(5, "nobody")]


def test_docstrings_comments_and_messages_are_read_and_code_is_not() -> None:
    source = '''"""Nobody."""

nobody = "nobody"  # nobody


def whoever() -> None:
    """A call by ``nobody`` for somebody.

    >>> nobody
    """
    logger.warning("Nobody: %s", nobody)
    raise KeyError(f"{nobody} is nobody \N{EN DASH} or somebody")
'''
    assert words_of_source(source) == [
        (1, "Nobody"),
        (3, "nobody"),
        (7, "somebody"),
        (11, "Nobody"),
        (12, "nobody"),
        (12, "somebody"),
    ]


def test_a_comment_after_code_does_not_continue_in_the_next_line() -> None:
    assert words_of_source("x = 1  # the\ny = 2  # very\n") == []


def test_a_summary_line_begins_with_a_noun_or_a_verb() -> None:
    source = 'def f():\n    """What stands in the way."""\n'

    assert words_of_source(source) == [(2, "What")]
    assert source_findings(source, has_help=False) == []


def test_every_rule_has_a_name_of_the_page_and_advice() -> None:
    page = (ROOT / "docs" / "style.md").read_text("utf-8")

    assert {rule.name for rule in RULES if f"| {rule.name} |" not in page} == set()
    assert all(rule.advice for rule in RULES)


def test_the_command_prints_findings_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("Good.\n\nIt is dear.\n", "utf-8")

    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == f"{page}:3: dear: expensive; costs more (E4)\n"

    page.write_text("Good.\n", "utf-8")
    assert main([str(page)]) == 0
    assert capsys.readouterr().out == ""


def test_the_command_refuses_a_path_that_does_not_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


def test_what_was_built_is_not_read(tmp_path: Path) -> None:
    for name in ("_build/page.md", "page.md", "page.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert list(files([tmp_path])) == [tmp_path / "page.md"]
