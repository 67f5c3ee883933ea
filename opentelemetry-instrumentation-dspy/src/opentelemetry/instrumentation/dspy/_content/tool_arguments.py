# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Secret arguments of tools inside free text: the prompts and answers that contain tool calls.

An agent's prompts and answers contain the arguments of its tools as JSON (possibly escaped several
times), as a Python dictionary, or as XML. If a parameter is named like a secret, the value after
its name is a secret as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial

from opentelemetry.instrumentation.dspy._content.redaction import REDACTED, is_secret_key
from opentelemetry.instrumentation.dspy._guarding import new_lock

# Keys inside of nested arguments, which the schemas of tools do not list.
_USUAL = ("password", "api_key", "apiKey", "access_token", "client_secret", "secret", "token")
_MAX_NAMES = 256

# What follows a name: its closing quotes, and a number or a quoted value with the same escaping.
# The value ends at its closing quotes. If it was cut before, it ends at the next quote with fewer
# escapes, which closes the enclosing JSON string. Runs of backslashes are bounded, and so is the
# time for any text.
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
# The start tag of an XML element, not its end tag.
_TAGGED = r"(?<=<%s)(?P<tag>>)[^<\"]*"


class SecretArguments:
    """The secret parameters of the tools seen so far, by name. Thread-safe.

    Attributes:
        known: Whether there are such parameters.
    """

    def __init__(self) -> None:
        self.known = False
        self._patterns: dict[str, re.Pattern[str]] = {}
        self._lock = new_lock()

    def learn(self, names: Iterable[str]) -> None:
        """Remember the names that are names of secrets."""
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
        """``text`` without the values of secret parameters; JSON stays valid JSON."""
        for name, pattern in self._patterns.items():
            if name in text:
                text = pattern.sub(_hidden, text)
        return text


def _pattern(name: str) -> re.Pattern[str]:
    literal = re.escape(name)
    return re.compile(f"{literal}(?:{_QUOTED}|{_TAGGED % literal})", re.DOTALL)


def named_value(name: str) -> Callable[[str], str]:
    """A function that hides the value after a name in JSON or Python inside of a text."""
    # The whole name: after its opening quote.
    pattern = re.compile(rf"(?<=[\"']){re.escape(name)}(?:{_QUOTED})", re.DOTALL)
    return partial(pattern.sub, _hidden)


def _hidden(found: re.Match[str]) -> str:
    groups = found.groupdict()
    if groups.get("tag"):
        return f"{found.string[found.start() : found.end('tag')]}{REDACTED}"
    name_and_head = found.string[found.start() : found.end("head")]
    if groups["quote"] is None:  # a number
        return f"{name_and_head}{groups['open']}{REDACTED}{groups['open']}"
    opening, closing = groups["escape"] + groups["quote"], groups["close"] or ""
    return f"{name_and_head}{opening}{REDACTED}{closing}"
