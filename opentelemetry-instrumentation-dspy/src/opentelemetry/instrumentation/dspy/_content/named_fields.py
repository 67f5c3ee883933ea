# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Fields inside of texts, in the forms in which adapters, tools and Python name a field."""

from __future__ import annotations

import re

from opentelemetry.instrumentation.dspy._content.redaction import REDACTED
from opentelemetry.instrumentation.dspy._content.tool_arguments import named_value

# Adapters also name fields in their instructions, between backticks.
_NEXT_SECTION = re.compile(r"(?:\n|\\n)[ \t]*\[\[ ## [^\n\]]{1,200} ## \]\]")
_BRACKET = re.compile(r"\\*[\"']|[\[\](){}]")
_OPENING = "[({"
_QUOTED = r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\""


class NamedField:
    """One field: hides its values in any text.

    It is found as a section of a chat (``[[ ## name ## ]]``), an element of XML, an item of JSON or
    of a Python dictionary, an argument of Python (``name='...'``), and at the start of a line
    (``name: ...``).
    """

    def __init__(self, name: str) -> None:
        self._name = name
        literal = re.escape(name)
        self._section = re.compile(rf"(?<!`)\[\[ ## {literal} ## \]\](?!`)")
        self._element = re.compile(rf"(?<!`)<{literal}>(?!`)")
        self._end_tag = f"</{name}>"
        self._hide_item = named_value(name)
        self._word = re.compile(
            rf"(?P<head>(?<=[\"']){literal}(?P<quote>\\{{0,63}}[\"'])\s{{0,4}}:\s{{0,4}})"
            r"(?:true|false|null|True|False|None|NaN|-?Infinity)\b"
        )
        self._container = re.compile(
            rf"(?P<head>(?<=[\"']){literal}(?P<quote>\\{{0,63}}[\"'])\s{{0,4}}:\s{{0,4}}"
            rf"|(?<![\w.]){literal}=)(?:[A-Za-z_][\w.]{{0,100}})?(?=[\[({{])"
        )
        self._argument = re.compile(rf"(?P<head>(?<![\w.]){literal}=)(?:{_QUOTED}|-?[\w.]+)")
        self._line = re.compile(
            rf"(?P<head>^[ \t]*(?:[-*][ \t]+)?{literal}[ \t]*:[ \t]*)[^\s][^\n]*", re.MULTILINE
        )

    def hide(self, text: str) -> str:
        """``text`` without values of the field."""
        if self._name not in text:
            return text
        text = self._without_sections(text)
        text = self._without_elements(text)
        text = self._without_containers(text)
        text = self._hide_item(text)
        text = self._word.sub(rf"\g<head>\g<quote>{REDACTED}\g<quote>", text)
        text = self._argument.sub(rf"\g<head>'{REDACTED}'", text)
        return self._line.sub(rf"\g<head>{REDACTED}", text)

    def _without_sections(self, text: str) -> str:
        parts: list[str] = []
        end = 0
        for found in self._section.finditer(text):
            if found.start() < end:
                continue
            following = _NEXT_SECTION.search(text, found.end())
            parts.append(f"{text[end : found.end()]}\n{REDACTED}\n")
            end = len(text) if following is None else following.start()
        return "".join([*parts, text[end:]])

    def _without_elements(self, text: str) -> str:
        parts: list[str] = []
        end = 0
        for found in self._element.finditer(text):
            if found.start() < end:
                continue
            close = text.find(self._end_tag, found.end())
            parts.append(f"{text[end : found.end()]}{REDACTED}")
            end = len(text) if close < 0 else close
        return "".join([*parts, text[end:]])

    def _without_containers(self, text: str) -> str:
        parts: list[str] = []
        end = 0
        for found in self._container.finditer(text):
            if found.start() < end:
                continue
            quote = found["quote"] or "'"
            parts.append(f"{text[end : found.start()]}{found['head']}{quote}{REDACTED}{quote}")
            end = _end_of_container(text, found.end())
        return "".join([*parts, text[end:]])


def _end_of_container(text: str, start: int) -> int:
    """The end of a list, dictionary or call; the end of the text if a bracket is missing."""
    depth = 0
    quote = ""
    for found in _BRACKET.finditer(text, start):
        token = found[0]
        if quote:
            quote = "" if token == quote else quote
        elif token[-1] in "\"'":
            quote = token
        else:
            depth += 1 if token in _OPENING else -1
            if depth == 0:
                return found.end()
    return len(text)
