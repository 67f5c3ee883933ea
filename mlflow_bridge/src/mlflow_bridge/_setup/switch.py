# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A span processor whose target can be exchanged, and that can leave out new traces for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

_MAX_LEFT_OUT: Final = 50_000
"""Traces that were left out and whose further spans are recognised."""


class SwitchableSpanProcessor(SpanProcessor):
    """Span processor that passes all calls on to a target, if it has one.

    A tracer provider cannot remove a processor, so a removable processor is the target of a switch.
    ``switch``, ``pause`` and ``resume`` are called under the owner's lock. The other methods may be
    called by any thread, and each call has the same target from beginning to end.
    """

    def __init__(self) -> None:
        self._target: SpanProcessor | None = None
        self._passes_to: SpanProcessor | None = None
        """The target, or the gate in front of it."""
        self._gate: _Gate | None = None

    @property
    def target(self) -> SpanProcessor | None:
        return self._target

    def switch(self, target: SpanProcessor | None) -> SpanProcessor | None:
        """Pass further spans on to this target; to no processor if it is None.

        Returns:
            The previous target, which the caller has to shut down.
        """
        before, self._target = self._target, target
        if self._gate is None:
            self._passes_to = target
        else:
            self._gate.target = target
        return before

    def pause(self) -> None:
        """Leave out the traces that begin from now on. Traces that are open are completed."""
        if self._gate is None:
            # It stays: spans of traces that it has left out may end at any later time.
            self._gate = _Gate(self._target)
        self._gate.close()
        self._passes_to = self._gate

    def resume(self) -> None:
        """Pass on the traces that begin from now on; those that began meanwhile stay left out."""
        if self._gate is not None:
            self._gate.open()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if target := self._passes_to:
            target.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        if target := self._passes_to:
            target.on_end(span)

    def shutdown(self) -> None:
        if target := self._target:
            target.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        target = self._target
        return target is None or target.force_flush(timeout_millis)


class _Gate(SpanProcessor):
    """Passes the spans of a trace on, or leaves all of them out, as was right when it began."""

    def __init__(self, target: SpanProcessor | None) -> None:
        self.target = target
        self._is_closed = False
        self._let_through: set[int] = set()
        """The traces that were open when the gate was closed."""
        # A dict, in which the oldest come first. Each step is one operation on it: no lock.
        self._left_out: dict[int, None] = {}

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            # Afterwards: a trace that begins in between is in neither set, and is asked for again.
            self._let_through = self._open_traces() - self._left_out.keys()

    def open(self) -> None:
        self._is_closed = False
        self._let_through = set()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        trace_id = span.get_span_context().trace_id
        if trace_id in self._left_out:
            return
        if self._is_closed and not self._is_let_through(span, trace_id):
            self._leave_out(trace_id)
        elif target := self.target:
            target.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.context
        if context is not None and context.trace_id in self._left_out:
            return
        if target := self.target:
            target.on_end(span)

    def _is_let_through(self, span: Span, trace_id: int) -> bool:
        if trace_id in self._let_through:
            return True
        # Of a trace whose first span another thread was about to pass on when the gate was closed.
        return span.parent is not None and trace_id in self._open_traces()

    def _leave_out(self, trace_id: int) -> None:
        left_out = self._left_out
        left_out[trace_id] = None
        while len(left_out) > _MAX_LEFT_OUT:
            left_out.pop(next(iter(left_out)), None)

    def _open_traces(self) -> set[int]:
        ids: Any = getattr(self.target, "open_trace_ids", None)
        return set() if ids is None else cast("Callable[[], set[int]]", ids)()
