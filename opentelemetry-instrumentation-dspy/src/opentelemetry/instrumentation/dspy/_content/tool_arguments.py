# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Arguments of tools inside free text: what a model is told, and tells, of the calls it makes.

An agent's prompts and answers have the arguments of its tools in them as JSON, once or several
times escaped, as a Python dictionary, or as XML. Where a parameter is named like a secret, so is
what stands behind its name there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from opentelemetry.instrumentation.dspy._content.redaction import REDACTED, is_secret_key
from opentelemetry.instrumentation.dspy._guarding import new_lock

# What is nested in an argument has names that no tool tells.
_USUAL = ("password", "api_key", "apiKey", "access_token", "client_secret", "secret", "token")
_MAX_NAMES = 256

# Behind a name: the end of its quotes, and a number or a value in quotes that are as often escaped.
# The value ends where its quotes do; where it was cut before that, at any quote that is less often
# escaped, since that is the end of the JSON string around it. Runs of backslashes are bounded, so
# that no text takes long.
_BACKSLASHES = r"(?:(?P=escape)(?P=escape)\\\\){0,64}"
_QUOTED = (
    r"(?P<head>(?P<open>\\{0,63}[\"'])\s{0,4}:\s{0,4})"
    r"(?:(?P<escape>\\{0,63})(?P<quote>[\"'])"
    r"(?:(?!\\{0,127}(?P=quote)|\\{128}|(?<!\\)\").|"
    + _BACKSLASHES
    + r"(?P=escape)(?P=escape)\\(?P=quote))*"
    r"(?:" + _BACKSLASHES + r"(?P<close>(?P=escape)(?P=quote)))?"
    r"|-?[0-9][0-9.]*)"
)
# The start of an XML element, and not its end.
_TAGGED = r"(?<=<%s)(?P<tag>>)[^<\"]*"


class SecretArguments:
    """The parameters of the tools met so far that are named like secrets. Thread-safe.

    Attributes:
        known: Whether there is any.
    """

    def __init__(self) -> None:
        self.known = False
        self._patterns: dict[str, re.Pattern[str]] = {}
        self._lock = new_lock()

    def learn(self, names: Iterable[str]) -> None:
        """Remember those of the names that are a secret's."""
        for name in names:
            if name not in self._patterns and is_secret_key(name):
                self._add(name)

    def _add(self, name: str) -> None:
        with self._lock:
            if len(self._patterns) < _MAX_NAMES:
                added = {each: _pattern(each) for each in (*_USUAL, name)}
                self._patterns = {**self._patterns, **added}
                self.known = True

    def hide(self, text: str) -> str:
        """``text``, which may be JSON and then stays it, without the values of such arguments."""
        for name, pattern in self._patterns.items():
            if name in text:
                text = pattern.sub(_hidden, text)
        return text


def _pattern(name: str) -> re.Pattern[str]:
    literal = re.escape(name)
    return re.compile(f"{literal}(?:{_QUOTED}|{_TAGGED % literal})", re.DOTALL)


def _hidden(found: re.Match[str]) -> str:
    groups = found.groupdict()
    if groups["tag"]:
        return f"{found.string[found.start() : found.end('tag')]}{REDACTED}"
    name_and_head = found.string[found.start() : found.end("head")]
    if groups["quote"] is None:  # a number
        return f"{name_and_head}{groups['open']}{REDACTED}{groups['open']}"
    opening, closing = groups["escape"] + groups["quote"], groups["close"] or ""
    return f"{name_and_head}{opening}{REDACTED}{closing}"
