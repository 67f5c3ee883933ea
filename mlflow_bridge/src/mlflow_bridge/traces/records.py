# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A trace in the form that all sources have in common: spans with MLflow's attributes.

Ended spans are mapped to MLflow's attributes as for a delivery. So a trace has the same values,
whether it is read from spans, from a file of spans or from MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_JSON_BEGINS: Final = ("{", "[", '"')


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An event of a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """A span with MLflow's attributes, each as the value that MLflow's JSON text stands for."""

    id: str
    parent: str | None
    name: str
    start_time_ns: int
    end_time_ns: int
    is_error: bool
    description: str | None
    """Description of the status."""
    attributes: Mapping[str, Any]
    events: Sequence[EventRecord] = ()


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """A trace: its spans in any order, and what is known of the trace beside them."""

    id: str
    spans: Sequence[SpanRecord]
    complete: bool
    name: str | None = None
    is_error: bool | None = None
    """Whether the trace failed; None if its root says it."""
    session_id: str | None = None
    """The session if no span has one; in the same way the user."""
    user_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


def decoded(value: Any) -> Any:
    """An attribute without the JSON texts that it is wrapped in.

    MLflow reads a text that looks like JSON as JSON, in some versions also a JSON text in a JSON
    text. So only a value that no such text is left of is the same everywhere.
    """
    while isinstance(value, str) and value.lstrip()[:1] in _JSON_BEGINS:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def own_items(items: Mapping[str, Any]) -> dict[str, str]:
    """Tags or metadata without those that MLflow keeps for itself."""
    return {key: str(value) for key, value in items.items() if not key.startswith("mlflow.")}
