# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The approximate size of a span in memory."""

from __future__ import annotations

from collections.abc import Mapping
from sys import getsizeof
from typing import Any, Final, cast

from opentelemetry.sdk.trace import ReadableSpan

_SPAN_BYTES: Final = 1024
"""About the size of a span without the values of its attributes."""


def size_of(span: ReadableSpan) -> int:
    """The approximate size of a span in memory, in bytes; text that spans share counts for each."""
    size = _SPAN_BYTES + _size_of_values(span.attributes)
    for event in span.events:
        size += _size_of_values(event.attributes)
    return size


def _size_of_values(attributes: Mapping[str, Any] | None) -> int:
    if not attributes:
        return 0
    values = attributes.values()
    size = sum(map(getsizeof, values))
    for value in values:
        if isinstance(value, tuple):
            size += sum(map(getsizeof, cast("tuple[Any, ...]", value)))
    return size
