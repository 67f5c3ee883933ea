# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which spans are the first of their trace here: a trace in MLflow without a root never ends."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import format_span_id, get_current_span

from mlflow_bridge._spans.names import ABSENT_PARENT, TRACE_ID
from mlflow_bridge._spans.open_spans import OpenSpans

_noted = False  # whether any has been written in this process


def is_local_root(span: ReadableSpan) -> bool:
    """Whether no parent of this span comes from this process."""
    parent = span.parent
    return parent is None or parent.is_remote or ABSENT_PARENT in (span.attributes or {})


def has_absent_parent(span: ReadableSpan) -> bool:
    """Whether `note_absent_parent` has just been called for a span with that result."""
    return _noted and ABSENT_PARENT in (span.attributes or {})


def note_absent_parent(span: Span, context: Context | None, open_spans: OpenSpans) -> None:
    """Write down that the parent of a span that starts will never be delivered, if that is so.

    Args:
        span: A sampled span, as `SpanProcessor.on_start` gets it.
        context: The context that came with it.
        open_spans: Those that have started here before it and not ended.
    """
    global _noted  # noqa: PLW0603
    parent = span.parent
    if parent is None or parent.is_remote or parent.span_id in open_spans:
        return
    if parent.trace_flags.sampled:
        absent = not _is_of_here(span, context)
    else:
        # A sampler may also leave out a span in the middle of a trace, which has its root then.
        absent = not open_spans.has(span.get_span_context().trace_id)
    if absent:
        _noted = True
        span.set_attribute(ABSENT_PARENT, format_span_id(parent.span_id))


def _is_of_here(span: Span, context: Context | None) -> bool:
    """Whether the parent, which is not known to be open, is of the same tracer provider.

    It may have ended, or started before there was a processor of ours. Each provider has a resource
    of its own, and that is all that a span tells of it; other implementations have none at all.
    """
    parent = get_current_span(context)
    if not isinstance(parent, ReadableSpan):
        return False
    return parent.resource is span.resource or TRACE_ID in (parent.attributes or {})
