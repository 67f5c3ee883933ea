# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Attributes of OpenTelemetry's SDK in a form that is fast to read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

_logger = logging.getLogger(__name__)


def as_dict(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Copy the attributes to a dict: lookups in the SDK's own mapping types are slow."""
    if attributes is None:
        return {}
    mapping: Any = attributes
    try:
        # The SDK's mapping has a dict inside, which copy() copies in one step.
        return mapping.copy()
    except AttributeError:
        return dict(attributes)


def text_of(value: object) -> str:
    """A value of a program as text; its type if it has no text. Raises no `Exception`."""
    try:
        return str(value)
    except Exception as error:
        # Python refuses to write integers of thousands of digits in decimal.
        if isinstance(value, int):
            return hex(value)
        kind = type(value).__name__
        # Without the exception's own text, which may contain data of the program.
        _logger.warning("A %s has no text for a tag or metadata: %s", kind, type(error).__name__)
        return f"<{kind}>"
