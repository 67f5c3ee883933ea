# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values of spans below a local root, which the local root shows in MLflow.

MLflow takes request and response of a trace from its root. A span of a web framework has neither,
so it is lent those of the program below it. They stand beside the span: other span processors have
the same object, and send it without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.sdk.trace import ReadableSpan

_lent: WeakKeyDictionary[ReadableSpan, Mapping[str, Any]] = WeakKeyDictionary()


def lend(span: ReadableSpan, values: Mapping[str, Any]) -> None:
    """Lend a span these attributes as well, for as long as the object lives."""
    _lent[span] = {**_lent.get(span, {}), **values}


def lent_to(span: ReadableSpan) -> Mapping[str, Any]:
    """The attributes that a span is lent, and does not have itself."""
    return _lent.get(span, {}) if _lent else {}


def with_lent_values(spans: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
    """The spans as they are written to the disk: with the attributes that they are lent."""
    if not _lent:
        return spans
    return [_with_values(span, _lent[span]) if span in _lent else span for span in spans]


def _with_values(span: ReadableSpan, values: Mapping[str, Any]) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes={**values, **(span.attributes or {})},
        events=span.events,
        links=span.links,
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
    )
