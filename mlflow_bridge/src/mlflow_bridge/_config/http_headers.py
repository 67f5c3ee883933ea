# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What an HTTP header can hold; HTTP clients repeat in their errors what it cannot, secrets too."""

from __future__ import annotations

import re
from typing import Final

# RFC 9110, 5.5: visible characters, with spaces and tabs between them. Beyond ASCII only what is in
# Latin-1, the encoding in which Python's HTTP client writes headers.
_VALUE: Final = re.compile(
    r"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def is_header_value(text: str) -> bool:
    """Whether the value of a header may be this text."""
    return _VALUE.fullmatch(text) is not None


def is_header_name(text: str) -> bool:
    """Whether a header may be called so."""
    return _NAME.fullmatch(text) is not None


def header_text(text: str) -> str:
    """The text as the value of a header: without the line end that a file or a secret ends with.

    Raises:
        ValueError: No header can hold it. The message does not repeat it.
    """
    stripped = text.strip()
    if not is_header_value(stripped):
        raise ValueError("it has characters that no HTTP header can hold")
    return stripped
