# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of HTTP headers: clients repeat an invalid value, even a secret, in their errors."""

from __future__ import annotations

import re
from typing import Final

# RFC 9110, 5.5: visible characters, with spaces and tabs between them. Beyond ASCII, only Latin-1:
# Python's HTTP client writes headers in that encoding.
_VALUE: Final = re.compile(
    r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def is_header_value(text: str) -> bool:
    """Whether the text is valid as the value of an HTTP header."""
    return _VALUE.fullmatch(text) is not None


def is_header_name(text: str) -> bool:
    """Whether the text is valid as the name of an HTTP header."""
    return _NAME.fullmatch(text) is not None


def header_text(text: str) -> str:
    """The text as the value of a header, without the line end of a file or secret.

    Raises:
        ValueError: The text is not valid in a header. The message does not repeat the text.
    """
    stripped = text.strip()
    if not is_header_value(stripped):
        raise ValueError("it has characters that an HTTP header cannot have")
    return stripped
