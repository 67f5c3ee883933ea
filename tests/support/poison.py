# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans that would have MLflow refuse the whole batch in which they are."""

from __future__ import annotations

import math
from typing import Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext

from tests.support.dspy_spans import Recorder

POISON: Final[dict[str, dict[str, Any]]] = {
    "surrogate": {"text": "a\ud800b", "session.id": "a\ud800b"},
    "escaped surrogate": {"dspy.module.input": r'{"a": "\ud800"}'},
    "nul": {"text": "a\x00b", "user.id": "a\x00b"},
    "20 MB": {"text": "ä" * 10_000_000},
    "9,000-character tag": {"mlflow.traceTag.long": "t" * 9_000},
    "9,000-character name": {"dspy.module.type": "n" * 9_000},
    "300-character session": {"session.id": "s" * 300, "user.id": "u" * 300},
    "not finite": {"nan": math.nan, "infinite": [math.inf, -math.inf]},
    "beyond 64 bits": {"large": 2**70, "small": -(2**90), "list": [2**64, 1]},
    "bytes": {"bytes": b"\xff\x00"},
    "nesting": {"dspy.module.output": "[" * 900 + "]" * 900},
    "holes": {"holes": [1, None], "mixed": [1, "a", math.nan]},
}


def batch_with_poison(recorder: Recorder, spans: int = 512) -> list[ReadableSpan]:
    """That many root spans: one for each kind of poison, the others valid."""
    batch = recorder.many(spans - len(POISON))
    for place, (kind, values) in enumerate(POISON.items()):
        batch.insert(place * spans // len(POISON), _poisoned(recorder.one(kind), values))
    return batch


def _poisoned(span: ReadableSpan, values: dict[str, Any]) -> ReadableSpan:
    """The span with these values in attributes, an event and a link, past the SDK's checks."""
    return ReadableSpan(
        name=span.name,
        context=span.context,
        resource=span.resource,
        attributes=values,
        events=[Event("event", values)],
        links=[Link(SpanContext(1, 2, is_remote=False), values)],
        start_time=span.start_time,
        end_time=span.end_time,
    )
