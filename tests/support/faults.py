# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What a server can do wrong to one request, as values that a test queues up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True)
class Status:
    """Answer with this HTTP status instead of doing the work.

    ``{api_key}`` in ``body`` becomes the credential that the client sent, the way that some
    servers repeat a wrong key in their message. ``Location`` in ``headers`` makes a redirect.
    """

    status: int
    body: str = ""
    retry_after: float | str | None = None
    """Seconds, or an HTTP date, for the ``Retry-After`` header."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def all_headers(self) -> dict[str, str]:
        """The headers with ``Retry-After`` among them."""
        if self.retry_after is None:
            return dict(self.headers)
        return {**self.headers, "Retry-After": format_seconds(self.retry_after)}


@dataclass(frozen=True)
class Hang:
    """Say nothing for a while, then close the connection without an answer."""

    seconds: float
    processed: bool = False
    """Whether the work is done all the same, so that a retry delivers twice."""


@dataclass(frozen=True)
class Reset:
    """Drop the connection with a TCP reset instead of answering."""

    processed: bool = False


@dataclass(frozen=True)
class HalfBody:
    """Do the work, announce the whole answer, write half of it and close the connection."""


Fault: TypeAlias = "Status | Hang | Reset | HalfBody"


def format_seconds(value: float | str) -> str:
    """A ``Retry-After`` value: HTTP knows whole seconds or a date, so 2.0 is written as 2."""
    return f"{value:g}" if isinstance(value, (int, float)) else value
