# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans of single ASGI messages, which say nothing about a program and are left out.

The instrumentation of ASGI makes one span for each message that a web framework sends or receives:
one for each chunk of a stream. In MLflow they would bury the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from mlflow_bridge._spans.local_root import is_local_root

_SCOPES: Final = frozenset(
    {
        "opentelemetry.instrumentation.asgi",
        "opentelemetry.instrumentation.fastapi",
        "opentelemetry.instrumentation.starlette",
    }
)
_EVENT_TYPE: Final = "asgi.event.type"
_MAX_PARENTS: Final = 65_536


class AsgiIo:
    """Finds the spans of ASGI messages that have no child.

    A child may still be open, wait to be looked at, or have been looked at before. `begin` looks at
    the first two, when all spans that are looked at next have ended. Used by one thread.

    Args:
        open_spans: Returns the open spans of this process, and those on their way to the queue.
    """

    def __init__(self, open_spans: Callable[[], Iterable[ReadableSpan]]) -> None:
        self._open_spans = open_spans
        self._parents_of_others: frozenset[int] = frozenset()
        self._parents: dict[int, None] = {}
        """Parents of the spans that were looked at; the oldest first."""

    def begin(self, waiting: Callable[[], Sequence[ReadableSpan]]) -> None:
        """Look for the children of the spans that are looked at next.

        Args:
            waiting: Returns the spans that wait in the queue, including the next ones.
        """
        self._parents_of_others = frozenset()
        if any(map(_is_asgi_io, waiting())):
            # In this order: a span that ends now is open, or waits.
            others = [*self._open_spans()]
            others += waiting()
            self._parents_of_others = frozenset(map(_parent_id, others))

    def is_left_out(self, span: ReadableSpan) -> bool:
        """Note an ended span, and whether it is to be left out."""
        parents = self._parents
        parents[_parent_id(span)] = None
        if len(parents) > _MAX_PARENTS:
            del parents[next(iter(parents))]
        if not _is_asgi_io(span) or is_local_root(span) or span.context is None:
            return False
        span_id = span.context.span_id
        return span_id not in parents and span_id not in self._parents_of_others


def without_asgi_io(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    """The spans of one trace without those of ASGI messages that have no child."""
    parents = set(map(_parent_id, spans))
    return [
        span
        for span in spans
        if not _is_asgi_io(span)
        or is_local_root(span)
        or (span.context is not None and span.context.span_id in parents)
    ]


def _is_asgi_io(span: ReadableSpan) -> bool:
    if span.kind is not SpanKind.INTERNAL:
        return False
    scope = span.instrumentation_scope
    return scope is not None and scope.name in _SCOPES and _EVENT_TYPE in (span.attributes or ())


def _parent_id(span: ReadableSpan) -> int:
    return 0 if span.parent is None else span.parent.span_id
