# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values as they come out of a content attribute again."""

from __future__ import annotations

import json
from typing import Any

from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy._settings import Settings

LIMIT = 10_000


def encoded(value: Any, limit: int = LIMIT) -> tuple[Any, list[str]]:
    """The value as it would be read from a span, and the list of shortened attributes."""
    attributes: dict[str, Any] = {}
    ContentEncoder(Settings(max_content_length=limit)).put(attributes, "a.input", "module", value)
    text = attributes["a.input"]
    assert len(text) <= limit
    text.encode()
    return json.loads(text), attributes.get("dspy.truncated", [])
