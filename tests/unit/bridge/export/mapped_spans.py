# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A span in MLflow's dialect, in a shape that tests can compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.mapping.span import MappedSpan, SpanMapper
from tests.support.dspy_spans import Recorder

LIMIT = 100_000


def mapped(span: ReadableSpan) -> MappedSpan:
    return SpanMapper(LIMIT).map(span)


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    """The mapped attributes as MLflow will read them: JSON parsed."""
    return {key: parsed(value) for key, value in (mapped(span).span.attributes or {}).items()}


def parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        return json.loads(value)
    return value


def one(attributes: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    return attributes_of(Recorder().one("span", attributes, **options))


def replaced(span: ReadableSpan, **changes: Any) -> ReadableSpan:
    """The span with parts that the SDK would not have let in."""
    parts: dict[str, Any] = {
        "name": span.name,
        "context": span.context,
        "parent": span.parent,
        "resource": span.resource,
        "attributes": span.attributes,
        "events": span.events,
        "start_time": span.start_time,
        "end_time": span.end_time,
        "status": span.status,
    }
    return ReadableSpan(**{**parts, **changes})
