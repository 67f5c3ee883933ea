# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A span processor whose target can be exchanged."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor


class SwitchableSpanProcessor(SpanProcessor):
    """Passes everything on to one processor, or to none.

    A tracer provider can be given processors, but none can be taken away again: what has to be
    removable stands behind a switch. ``switch`` is called under the owner's lock; the others by any
    thread, and each of them sees one target from beginning to end.
    """

    def __init__(self) -> None:
        self._target: SpanProcessor | None = None

    @property
    def target(self) -> SpanProcessor | None:
        return self._target

    def switch(self, target: SpanProcessor | None) -> SpanProcessor | None:
        """Pass spans on to this processor from now on.

        Returns:
            The processor that got them until now; it is the caller's to shut down.
        """
        before, self._target = self._target, target
        return before

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if target := self._target:
            target.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        if target := self._target:
            target.on_end(span)

    def shutdown(self) -> None:
        if target := self._target:
            target.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        target = self._target
        return target is None or target.force_flush(timeout_millis)
