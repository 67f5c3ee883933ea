# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Find words that docs/style.md replaces, in pages, docstrings, comments and messages.

``python -m tools.check_words [path ...]`` prints ``path:line: word: advice`` for each finding and
exits with 1 if there is one. Code is not read, and neither is text between backticks.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks",
    "changelog.d",
    "deploy",
    "docs",
    "examples",
    "mlflow_bridge",
    "opentelemetry-instrumentation-dspy",
    "tests",
    "tools",
)
SUFFIXES: Final = (".md", ".py", ".rst")
NOT_OURS: Final = {".bench", ".tox", ".venv", "_build", "_generated", "build", "dist"}

LOGGING: Final = {"debug", "info", "warning", "warn", "error", "exception", "critical", "log"}
MESSAGE_KEYWORDS: Final = {"description", "help", "reason"}
ERROR_NAME: Final = re.compile(r"(Error|Exception|Warning)$")

CODE: Final = "\0"
"""Stands for each character that is not prose."""


@dataclass(frozen=True)
class Rule:
    """A rule of docs/style.md, the words that break it, and what to write instead."""

    name: str
    words: re.Pattern[str]
    advice: str


def _rule(name: str, words: str, advice: str) -> Rule:
    # A phrase may be broken across two lines.
    words = words.replace(" ", r"\s+")
    return Rule(name, re.compile(rf"(?<!\w)(?:{words})", re.IGNORECASE), advice)


# Each word is here because it has no good use in this project, or hardly any: there is no comment
# that switches a rule off.
RULES: Final = (
    _rule("E1", r"(?:of )?one's own\b", "name the owner: your own, the program's"),
    _rule("E1", r"such a one\b", "repeat the noun"),
    _rule("E2", r"(?<!there\s)(?:is|are|was|were) (?-i:none)\b", 'say what it is not: "is not a"'),
    _rule("E2", r"for what (?:is|has) no(?:ne)?\b", 'begin with the condition: "if ..."'),
    _rule("E3", r"(?:who|whom)(?:so)?ever\b|whosever\b", "name the caller, thread or process"),
    _rule("E3", r"(?:nobody|somebody|everybody)(?:'s)?\b", "name the caller, thread or process"),
    _rule("E3", r"(?:those|one) who\b|who can wait\b", "name the caller, thread or process"),
    _rule("E4", r"dear(?:er|est|ly)?\b", "expensive; costs more"),
    _rule("E4", r"(?:in (?:a|no) )?hurr(?:y|ies|ied)\b", "name the flush, limit or deadline"),
    _rule("E4", r"wish(?:es|ed)?\b", "name the request, setting or header"),
    _rule("E4", r"for company\b", "for its batch to fill"),
    _rule("E4", r"(?:tell|tells|telling|told) of\b", "report; show; state"),
    _rule("E4", r"thr(?:ow|ows|own|ew|owing) away\b", "discard"),
    _rule("E4", r"in vain\b", "without success"),
    _rule("E4", r"a great many\b|a good many\b", "many; give the number"),
    _rule("E4", r"oftener\b", "more often"),
    _rule("E6", r"be (?:it|they)\b(?= (?:a|an|the|in|of|by|on|one|for|from)\b)", "drop the clause"),
    _rule("E6", r"how(?:ever)? often(?: soever)? ever\b|how many ever\b", "however often"),
    _rule("E6", r"(?<=,) (?:[\w()'-]+ ){1,8}for one(?=[,.;:)])", "drop it"),
    _rule("E6", r"so many\b", "give the number, or write: that many"),
    _rule("E6", r"anew\b", "again"),
    _rule("E6", r"the very\b", "the same; the exact"),
)
SUMMARY: Final = Rule(
    "E7",
    re.compile(r"(?:What|Whose|Who|Whom|The same|As|Of)\b"),
    "begin the summary line with a noun or an imperative verb",
)


@dataclass(frozen=True)
class Finding:
    """One use of a word, with the line that it begins in, counted from 1."""

    line: int
    word: str
    rule: Rule

    def __str__(self) -> str:
        return f"{self.line}: {self.word}: {self.rule.advice} ({self.rule.name})"


def page_findings(text: str) -> list[Finding]:
    """The findings in a page, in order."""
    return sorted(_in_prose(page_prose(text)), key=_place)


def source_findings(source: str, *, has_help: bool = True) -> list[Finding]:
    """The findings in Python source, in order.

    Args:
        source: The text of the file.
        has_help: Whether users read its docstrings, so that their summary lines are checked, too.
    """
    tree = ast.parse(source)
    found = [*_in_prose(python_prose(source, tree)), *(_riddles(tree) if has_help else ())]
    return sorted(found, key=_place)


def _in_prose(prose: str) -> Iterator[Finding]:
    for rule in RULES:
        for match in rule.words.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            yield Finding(line, " ".join(match[0].split()).strip(", "), rule)


def _place(finding: Finding) -> tuple[int, str]:
    return finding.line, finding.word


def page_prose(text: str) -> str:
    """The text of a page without code and generated tables: every line stays where it is."""
    text = re.sub(r"<!-- begin (\S+) -->.*?<!-- end \1 -->", _blank, text, flags=re.DOTALL)
    text = re.sub(r"^( *)(```+|~~~+)[^\n]*\n.*?^\1\2 *$", _blank, text, flags=re.DOTALL | re.M)
    text = re.sub(r"^(?:[^\n]*::|\.\. \S+::[^\n]*)\n(?:\n|[ ]+[^\n]*\n)+", _blank, text, flags=re.M)
    text = re.sub(r"<!--.*?-->", _blank, text, flags=re.DOTALL)
    text = re.sub(r"\]\([^)\s]*\)|https?://\S+", _blank, text)
    return _without_inline_code(text)


def python_prose(source: str, tree: ast.Module) -> str:
    """The docstrings, comments and messages of a source: every character stays where it is."""
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    prose = list(re.sub(r"[^\n]", CODE, source))

    def show(begin: int, end: int, text: str) -> None:
        prose[begin:end] = text

    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        row, column = token.start
        begin = starts[row - 1] + column
        if token.type == tokenize.COMMENT:
            # The indentation counts as prose, so that comments on two lines make one text.
            before = 0 if lines[row - 1][:column].strip() else column
            text = " " * before + token.string.replace("#", " ", 1)
            show(begin - before, begin + len(token.string), _without_inline_code(text))
    for node in _texts(tree):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        begin = starts[node.lineno - 1] + _characters(lines[node.lineno - 1], node.col_offset)
        end = starts[node.end_lineno - 1]
        end += _characters(lines[node.end_lineno - 1], node.end_col_offset)
        show(begin, end, _without_inline_code(_without_quotes(source[begin:end])))
    return "".join(prose)


def _characters(line: str, size: int) -> int:
    """The number of characters in the first bytes of a line, since `ast` counts UTF-8 bytes."""
    return len(line.encode()[:size].decode())


def _without_quotes(literal: str) -> str:
    """A string literal, or several in a row, with spaces for quotation marks and prefixes."""
    text = re.sub(r"(?<!\w)[rbfuRBFU]{0,2}(\"\"\"|'''|\"|')|[\"'](?=\s|$)", _spaces, literal)
    return re.sub(r"\{[^{}]*\}|>>> [^\n]*", _blank, text)


def _without_inline_code(text: str) -> str:
    return re.sub(r"(`+)(?!`)[^`]+?\1", _blank, text)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", CODE, match[0])


def _spaces(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _texts(tree: ast.Module) -> Iterator[ast.expr]:
    """The literals of docstrings and messages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and _is_text(node.value):
            yield node.value
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from filter(_is_text, node.exc.args)
        elif isinstance(node, ast.Assert) and node.msg is not None and _is_text(node.msg):
            yield node.msg
        elif isinstance(node, ast.Call):
            yield from _messages(node)


def _messages(call: ast.Call) -> Iterator[ast.expr]:
    name = getattr(call.func, "attr", None) or getattr(call.func, "id", "")
    if name in LOGGING or ERROR_NAME.search(name):
        yield from filter(_is_text, call.args)
    for keyword in call.keywords:
        if keyword.arg in MESSAGE_KEYWORDS and _is_text(keyword.value):
            yield keyword.value


def _is_text(node: ast.expr) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return text or isinstance(node, ast.JoinedStr)


def _riddles(tree: ast.Module) -> Iterator[Finding]:
    """Docstrings whose first word leaves open what the object is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match = SUMMARY.words.match(ast.get_docstring(node) or "")
            if match is not None:
                yield Finding(node.body[0].lineno, match[0], SUMMARY)


def files(places: Iterable[Path]) -> Iterator[Path]:
    """The pages and sources among these files, and below these directories."""
    for place in places:
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        for file in found:
            if file.suffix in SUFFIXES and not NOT_OURS & set(file.parts) and file.is_file():
                yield file


def findings(file: Path) -> list[Finding]:
    text = file.read_text("utf-8")
    if file.suffix == ".py":
        return source_findings(text, has_help="src" in file.parts)
    return page_findings(text)


def main(arguments: list[str]) -> int:
    places = [Path(argument) for argument in arguments] or [ROOT / place for place in PAGES]
    missing = [str(place) for place in places if not place.exists()]
    if missing:
        sys.stderr.write(f"error: not found: {', '.join(missing)}\n")
        return 2
    count = 0
    for file in files(places):
        name = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
        for finding in findings(file):
            count += 1
            sys.stdout.write(f"{name}:{finding}\n")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
