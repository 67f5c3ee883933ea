# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The traces of this process that have not ended: their ended spans, and what is still open."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.span_size import size_of


@dataclass(frozen=True)
class Limits:
    """Limits of what is held; beyond a limit, the oldest trace is given up."""

    traces: int = 10_000
    """Traces whose root has not ended."""
    spans: int = 100_000
    """Spans of these traces, ended or open."""
    bytes: int = 134_217_728
    """Approximate size of the ended spans."""
    late_seconds: float = 30.0
    """How long a trace waits for open spans after its root has ended."""


@dataclass(slots=True)
class EndedTrace:
    """A trace that is given out."""

    spans: list[ReadableSpan]
    size: int
    complete: bool


@dataclass(slots=True)
class _Trace:
    spans: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    open: set[int] = field(default_factory=set[int])
    size: int = 0
    roots: int = 0
    """Local roots that are open: a trace has several if a remote caller calls more than once."""


class OpenTraces:
    """Collects the spans of each trace, from the start of its local root.

    A trace is given out when its local root and all spans that have started have ended, or
    ``late_seconds`` after its root. Spans of other traces are ignored: of traces that began before
    this object was made or in the parent process, and of traces that were given out or given up.

    Not thread-safe.
    """

    def __init__(
        self, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits or Limits()
        self._clock = clock
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        self._rooted: dict[int, float] = {}
        """When each trace without an open root stops waiting for open spans; the next one first."""
        self._spans = self._bytes = 0
        self.given_up = 0
        """Number of traces that were given up."""

    def __len__(self) -> int:
        return len(self._traces)

    def ids(self) -> set[int]:
        """The traces that have not ended."""
        return set(self._traces)

    def started(self, span: ReadableSpan, trace_id: int, span_id: int) -> None:
        """Note a span that has started."""
        trace = self._traces.get(trace_id)
        if trace is None:
            if not _is_root(span):
                return
            trace = self._traces[trace_id] = _Trace()
        if _is_root(span):
            trace.roots += 1
            self._rooted.pop(trace_id, None)
        trace.open.add(span_id)
        self._spans += 1
        self._keep_within_limits()

    def ended(self, span: ReadableSpan, trace_id: int, span_id: int) -> EndedTrace | None:
        """Take a span that has ended. Returns its trace if that has ended, too."""
        trace = self._traces.get(trace_id)
        if trace is None or span_id not in trace.open:
            return None
        trace.open.discard(span_id)
        trace.spans.append(span)
        size = size_of(span)
        trace.size += size
        self._bytes += size
        if _is_root(span):
            trace.roots -= 1
            if trace.roots == 0:
                self._rooted[trace_id] = self._clock() + self._limits.late_seconds
        if not trace.open:
            return self._taken(trace_id, complete=True)
        self._keep_within_limits()
        return None

    def overdue(self) -> list[EndedTrace]:
        """The traces that have waited for open spans for too long."""
        now = self._clock()
        late = [trace_id for trace_id, until in list(self._rooted.items()) if until <= now]
        return [self._taken(trace_id, complete=False) for trace_id in late]

    @property
    def has_late(self) -> bool:
        """Whether a trace waits for open spans after its root."""
        return bool(self._rooted)

    def seconds_to_overdue(self) -> float | None:
        """Seconds until a trace has waited for too long; None if no trace waits."""
        until = next(iter(self._rooted.values()), None)
        return None if until is None else max(until - self._clock(), 0.0)

    def _taken(self, trace_id: int, *, complete: bool) -> EndedTrace:
        trace = self._remove(trace_id)
        return EndedTrace(trace.spans, trace.size, complete)

    def _remove(self, trace_id: int) -> _Trace:
        trace = self._traces.pop(trace_id)
        self._rooted.pop(trace_id, None)
        self._spans -= len(trace.spans) + len(trace.open)
        self._bytes -= trace.size
        return trace

    def _keep_within_limits(self) -> None:
        limits = self._limits
        while self._traces and (
            len(self._traces) > limits.traces
            or self._spans > limits.spans
            or self._bytes > limits.bytes
        ):
            self._remove(next(iter(self._traces)))
            self.given_up += 1


def _is_root(span: ReadableSpan) -> bool:
    parent = span.parent
    # A sampler may drop a span inside a trace; the trace still has its root.
    return is_local_root(span) or (parent is not None and not parent.trace_flags.sampled)
