# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Texts from servers, drivers and files, made safe for a log line or a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

LIMIT: Final = 300
"""Characters of a text that are shown."""

_SHORTEST_SECRET: Final = 4
"""A shorter secret is not looked for: it would be found in words that are no secret."""

_REPLACEMENT: Final = "[REDACTED]"

# C0 and C1 controls, which carry line feeds and escape sequences; separators of lines; marks that
# change the direction of the text; halves of surrogate pairs, which cannot be encoded.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def outside_text(text: object, *, secrets: Iterable[str] = (), limit: int = LIMIT) -> str:
    """One printable line of a text that does not come from this program.

    Args:
        text: The text; another object is converted with `str`.
        secrets: Texts that are replaced, since servers repeat a wrong credential.
        limit: The most characters, not counting the escapes of unsafe ones.

    Returns:
        The text with control characters escaped as in a Python literal, without the secrets.
    """
    try:
        shown = str(text)
    except Exception as error:
        shown = f"[unreadable {type(text).__name__}: {type(error).__name__}]"
    # The longest first: one secret may contain another.
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            shown = shown.replace(secret, _REPLACEMENT)
    if len(shown) > limit:
        shown = shown[:limit] + "..."
    return _UNSAFE.sub(_escaped, shown)


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode("ascii")
