# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Attributes as OpenTelemetry's SDK hands them out, in a form that is quick to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_dict(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy; the SDK's mappings are written in Python, and each look into them takes a while."""
    if attributes is None:
        return {}
    mapping: Any = attributes
    try:
        # Theirs is a dict, and made in one go.
        return mapping.copy()
    except AttributeError:
        return dict(attributes)
