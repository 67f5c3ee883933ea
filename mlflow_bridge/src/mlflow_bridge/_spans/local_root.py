# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Local roots, and absent parents: without a root, a trace in MLflow never ends."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import format_span_id, get_current_span

from mlflow_bridge._spans.names import ABSENT_PARENT, TRACE_ID
from mlflow_bridge._spans.open_spans import OpenSpans

_noted = False  # whether a span of this process has the attribute


def is_local_root(span: ReadableSpan) -> bool:
    """Whether no parent of this span comes from this process."""
    parent = span.parent
    return parent is None or parent.is_remote or ABSENT_PARENT in (span.attributes or {})


def open_local_root(span: Span, open_span: Callable[[int], Span | None]) -> Span | None:
    """The open local root above a span, or the span itself; None if a span in between has ended.

    Args:
        span: An open span.
        open_span: Returns the open span of this process with an id.
    """
    found: Span | None = span
    while found is not None and not is_local_root(found):
        parent = found.parent
        found = None if parent is None else open_span(parent.span_id)
    return found


def has_absent_parent(span: ReadableSpan) -> bool:
    """Whether `note_absent_parent` has marked the span. Fast if it never marked a span."""
    return _noted and ABSENT_PARENT in (span.attributes or {})


def note_absent_parent(span: Span, context: Context | None, open_spans: OpenSpans) -> None:
    """Mark a span that starts if its parent is absent, that is, will never be delivered.

    Args:
        span: A sampled span, as `SpanProcessor.on_start` gets it.
        context: The context that `SpanProcessor.on_start` got.
        open_spans: The spans of this process that started before and have not ended.
    """
    global _noted  # noqa: PLW0603
    parent = span.parent
    if parent is None or parent.is_remote or parent.span_id in open_spans:
        return
    if parent.trace_flags.sampled:
        absent = not _is_of_here(span, context)
    else:
        # A sampler may drop a span inside a trace; the trace still has its root.
        absent = not open_spans.has(span.get_span_context().trace_id)
    if absent:
        _noted = True
        span.set_attribute(ABSENT_PARENT, format_span_id(parent.span_id))


def _is_of_here(span: Span, context: Context | None) -> bool:
    """Whether the parent, which is not known to be open, is of the same tracer provider.

    The parent may have ended, or started before there was a processor of ours. A span shows nothing
    of its provider except the Resource, so providers are compared by that. Spans that are not of
    the SDK have no Resource.
    """
    parent = get_current_span(context)
    if not isinstance(parent, ReadableSpan):
        return False
    return parent.resource is span.resource or TRACE_ID in (parent.attributes or {})
