# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A span processor whose target can be exchanged, and that can leave out whole traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

_MAX_DECIDED: Final = 50_000
"""Traces whose decision is remembered."""


class PauseDecisions:
    """Which traces are passed on, by the time at which they began. Thread-safe.

    Several switches share this object, so that all their targets get the same traces: the first
    switch that sees the first span of a trace decides. Each step is one operation on a dictionary.

    Args:
        open_traces: Returns the traces that a target has seen, and that have not ended.
    """

    def __init__(self, open_traces: Callable[[], set[int]]) -> None:
        self.is_paused = False
        self._open_traces = open_traces
        self._decided: dict[int, bool] = {}

    def begin(self, before: PauseDecisions | None = None) -> None:
        """Remember that the traces that are open now are passed on.

        Args:
            before: Decisions that stay as they are.
        """
        if before is not None:
            self._decided.update(before._decided.copy())
        for trace_id in self._open_traces():
            self._decided.setdefault(trace_id, True)

    def passes_start(self, span: Span) -> bool:
        """Whether to pass on a span that starts."""
        trace_id = span.get_span_context().trace_id
        known = self._decided.get(trace_id)
        if known is not None:
            return known
        parent = span.parent
        if parent is not None and not parent.is_remote:
            return True  # of a trace that began before the first pause
        # A thread may be between two switches, and has passed the first before there was a pause.
        passes = not self.is_paused or trace_id in self._open_traces()
        passes = self._decided.setdefault(trace_id, passes)
        while len(self._decided) > _MAX_DECIDED:
            self._decided.pop(next(iter(self._decided)), None)
        return passes

    def passes_end(self, span: ReadableSpan) -> bool:
        """Whether to pass on a span that has ended."""
        context = span.context
        return context is None or self._decided.get(context.trace_id, True)


class SwitchableSpanProcessor(SpanProcessor):
    """Span processor that passes all calls on to a target, if it has one.

    A tracer provider cannot remove a processor, so a removable processor is the target of a switch.
    ``switch`` and ``decide_by`` are called under the owner's lock. The other methods may be called
    by any thread, and each call has the same target from beginning to end.
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

    def decide_by(self, decisions: PauseDecisions) -> None:
        """Pass spans on by these decisions from now on. Before, each span costs no step for it."""
        self._gate = _Gate(self._target, decisions)
        self._passes_to = self._gate

    def open_trace_ids(self) -> set[int]:
        """The traces that have an open span in the target."""
        ids: Any = getattr(self._target, "open_trace_ids", None)
        return set() if ids is None else cast("Callable[[], set[int]]", ids)()

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
    """Passes all spans of a trace on, or none of them."""

    def __init__(self, target: SpanProcessor | None, decisions: PauseDecisions) -> None:
        self.target = target
        self._decisions = decisions

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if (target := self.target) and self._decisions.passes_start(span):
            target.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        if (target := self.target) and self._decisions.passes_end(span):
            target.on_end(span)
