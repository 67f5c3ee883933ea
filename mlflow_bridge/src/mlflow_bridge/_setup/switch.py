# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A span processor whose target can be exchanged."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor


class SwitchableSpanProcessor(SpanProcessor):
    """Span processor that passes all calls on to a target, if it has one.

    A tracer provider cannot remove a processor, so a removable processor is the target of a switch.
    ``switch`` is called under the owner's lock. The other methods may be called by any thread, and
    each call has the same target from beginning to end.
    """

    def __init__(self) -> None:
        self._target: SpanProcessor | None = None

    @property
    def target(self) -> SpanProcessor | None:
        return self._target

    def switch(self, target: SpanProcessor | None) -> SpanProcessor | None:
        """Pass further spans on to this target; to no processor if it is None.

        Returns:
            The previous target, which the caller has to shut down.
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
