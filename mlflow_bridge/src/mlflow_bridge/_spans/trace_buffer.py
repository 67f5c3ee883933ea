# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The ended spans of traces that are not decided yet, and what is known of each trace."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, Protocol, TypeVar

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.span_size import size_of

_logger = logging.getLogger(__name__)

Facts = TypeVar("Facts")
"""Facts of one trace that a policy remembers; None if it remembers nothing."""


class Decision(Enum):
    """The outcome for all spans of a trace."""

    KEEP = "keep"
    DROP = "drop"


class TracePolicy(Protocol[Facts]):
    """Decides on traces, from their ended spans.

    The policy remembers facts and not spans, so that a span need not wait until its root has ended.
    What a root needs to know of its descendants goes into the facts of the trace.
    """

    def new_facts(self) -> Facts:
        """Make the facts of a trace of which no span is known."""
        ...

    def note(self, span: ReadableSpan, facts: Facts) -> Decision | None:
        """Add a span to the facts of its trace. Returns a decision if the span is enough for it.

        Called once for each span, also if the trace is decided. A KEEP after a DROP brings back the
        local root of the trace.
        """
        ...

    def conclude(self, facts: Facts, *, complete: bool) -> Decision:
        """Decide on a trace.

        Args:
            facts: The facts of the trace.
            complete: Whether the local root has ended and no other span of the trace is open. If
                not, the buffer has no more room, or holds the trace for too long.
        """
        ...


@dataclass(frozen=True)
class BufferLimits:
    """Limits of a buffer. Beyond a limit, the policy decides on the oldest trace."""

    spans: int
    bytes: int = 67_108_864
    """Approximate size of the held spans."""
    traces: int = 65_536
    """Traces that have no decision."""
    age_seconds: float = 300.0
    kept_traces: int = 65_536
    """Traces that are remembered as kept; traces with an open span do not count."""
    dropped_traces: int = 1024
    """Traces that are remembered as dropped, each with its root."""


@dataclass
class Sorted:
    """Spans of traces that are decided."""

    kept: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    dropped: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    revived: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    """Local roots that were dropped before, of traces that are kept after all."""


@dataclass(slots=True)
class _Trace(Generic[Facts]):
    facts: Facts
    since: float
    spans: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    bytes: int = 0
    root: ReadableSpan | None = None
    """The local root, once it has ended; the last one if there are several."""


class TraceBuffer(Generic[Facts]):
    """The ended spans of a trace until a policy has decided on the trace.

    From its decision on, a trace is not held any more: its later spans, too, are kept or dropped.
    An undecided trace is decided at the latest when its local root has ended and no other span of
    it is open in this process; see `begin`. The buffer is bounded in traces, spans, bytes and age.

    Called by one thread at a time, except for `kept_traces` and `is_kept`. A forked child makes a
    new buffer: the held spans belong to its parent.

    Args:
        policy: Decides on the traces.
        limits: What is held at most.
        open_traces: Returns the traces that have an open span in this process.
        clock: Seconds, as from `time.monotonic`.
    """

    def __init__(
        self,
        policy: TracePolicy[Facts],
        limits: BufferLimits,
        *,
        open_traces: Callable[[], set[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._open_traces = open_traces
        self._clock = clock
        # A trace is in one of these, the oldest first.
        self._undecided: OrderedDict[int, _Trace[Facts]] = OrderedDict()
        self._kept: OrderedDict[int, Facts] = OrderedDict()
        self._dropped: OrderedDict[int, _Trace[Facts]] = OrderedDict()
        self._rooted: dict[int, None] = {}
        """The undecided traces whose local root has ended."""
        self.held = 0
        """Number of spans that are held now."""
        self._held_bytes = 0
        self._ready = Sorted()
        self._open: set[int] = set()

    def begin(self) -> None:
        """Look which traces have an open span, before the spans that have ended are added.

        A span that ends meanwhile may be in a queue, where neither the registry of open spans nor
        this buffer sees it. So a trace is complete if it had no open span at this moment, and
        `conclude` is called when all spans that had ended then have been added.
        """
        self._open = self._open_traces()

    def conclude(self) -> Sorted:
        """Decide on complete traces, see `begin`, and on traces beyond the limits.

        Returns:
            Their spans.
        """
        for trace_id in [trace_id for trace_id in self._rooted if trace_id not in self._open]:
            facts = self._undecided[trace_id].facts
            self._decide(trace_id, self._conclusion(facts, complete=True))
        # Afterwards: complete traces make room.
        self._conclude_overdue()
        return self._take_ready()

    def add(self, spans: Sequence[ReadableSpan]) -> Sorted:
        """Take ended spans. Returns all spans of which the decision is known now.

        The policy gets all of the given spans before any of them is dropped.
        """
        for span in spans:
            self.note(span)
        for span in spans:
            self._place(span)
        return self._take_ready()

    def _take_ready(self) -> Sorted:
        if len(self._kept) > self._limits.kept_traces:
            self._forget_kept()
        ready, self._ready = self._ready, Sorted()
        return ready

    def note(self, span: ReadableSpan) -> None:
        """Tell the policy of a span that is delivered in another way. The span is not held."""
        trace_id = trace_id_of(span)
        if trace_id in self._kept:
            self._decision_on(span, self._kept[trace_id])
            return
        trace = self._undecided.get(trace_id) or self._dropped.get(trace_id)
        known = trace or self._new_trace()
        decision = self._decision_on(span, known.facts)
        if trace is None and (decision is not None or known.facts is not None):
            self._undecided[trace_id] = known
        self._decide(trace_id, decision)

    def keep(self, traces: Iterable[int]) -> None:
        """Keep these traces. The next `add` returns their held spans and dropped roots."""
        for trace_id in traces:
            if trace_id not in self._kept and trace_id not in self._dropped:
                self._undecided.setdefault(trace_id, self._new_trace())
            self._keep(trace_id)

    def facts(self, trace_id: int) -> Facts | None:
        """The facts of a trace; None if the trace is not known, or is forgotten."""
        if trace_id in self._kept:
            return self._kept[trace_id]
        trace = self._undecided.get(trace_id) or self._dropped.get(trace_id)
        return None if trace is None else trace.facts

    def kept_traces(self) -> list[int]:
        """The traces that are kept. May be called by any thread."""
        # A single call into C, which no other thread interrupts.
        return list(self._kept)

    def is_kept(self, trace_id: int) -> bool:
        """Whether a trace is known to be kept. May be called by any thread."""
        return trace_id in self._kept

    def close(self) -> Sorted:
        """End the buffer. Returns the spans of decided traces; as dropped, all that are held."""
        ready, self._ready = self._ready, Sorted()
        for trace in self._undecided.values():
            ready.dropped += trace.spans
        self._undecided.clear()
        self._rooted.clear()
        self.held = self._held_bytes = 0
        return ready

    def _new_trace(self) -> _Trace[Facts]:
        return _Trace(self._policy.new_facts(), self._clock())

    def _decision_on(self, span: ReadableSpan, facts: Facts) -> Decision | None:
        try:
            return self._policy.note(span, facts)
        except Exception:
            # An unwanted trace is better than a lost trace.
            _logger.debug("The policy raised", exc_info=True)
            return Decision.KEEP

    def _place(self, span: ReadableSpan) -> None:
        trace_id = trace_id_of(span)
        if trace_id in self._kept:
            self._kept.move_to_end(trace_id)
            self._ready.kept.append(span)
        elif (dropped := self._dropped.get(trace_id)) is not None:
            if is_local_root(span):
                dropped.root = span
            self._ready.dropped.append(span)
        else:
            self._hold(trace_id, span)

    def _hold(self, trace_id: int, span: ReadableSpan) -> None:
        trace = self._undecided.get(trace_id)
        if trace is None:
            trace = self._undecided[trace_id] = self._new_trace()
        trace.spans.append(span)
        size = size_of(span)
        trace.bytes += size
        self._held_bytes += size
        self.held += 1
        if is_local_root(span):
            trace.root = span
            self._rooted[trace_id] = None

    def _decide(self, trace_id: int, decision: Decision | None) -> None:
        if decision is Decision.KEEP:
            self._keep(trace_id)
        elif decision is Decision.DROP and trace_id in self._undecided:
            trace = self._release(trace_id, self._ready.dropped)
            self._dropped[trace_id] = trace
            if len(self._dropped) > self._limits.dropped_traces:
                self._dropped.popitem(last=False)

    def _keep(self, trace_id: int) -> None:
        dropped = self._dropped.pop(trace_id, None)
        if dropped is not None:
            if dropped.root is not None:
                self._ready.revived.append(dropped.root)
            self._kept[trace_id] = dropped.facts
        elif trace_id in self._undecided:
            self._kept[trace_id] = self._release(trace_id, self._ready.kept).facts

    def _release(self, trace_id: int, to: list[ReadableSpan]) -> _Trace[Facts]:
        trace = self._undecided.pop(trace_id)
        self._rooted.pop(trace_id, None)
        to += trace.spans
        self.held -= len(trace.spans)
        self._held_bytes -= trace.bytes
        trace.spans, trace.bytes = [], 0
        return trace

    def _conclude_overdue(self) -> None:
        now, limits = self._clock(), self._limits
        while self._undecided:
            trace_id, trace = next(iter(self._undecided.items()))
            if (
                self.held <= limits.spans
                and self._held_bytes <= limits.bytes
                and len(self._undecided) <= limits.traces
                and now - trace.since <= limits.age_seconds
            ):
                return
            self._decide(trace_id, self._conclusion(trace.facts, complete=False))

    def _conclusion(self, facts: Facts, *, complete: bool) -> Decision:
        try:
            return self._policy.conclude(facts, complete=complete)
        except Exception:
            _logger.debug("The policy raised", exc_info=True)
            return Decision.KEEP

    def _forget_kept(self) -> None:
        """Forget the oldest kept traces that cannot go on in this process."""
        still_open = self._open_traces()
        for trace_id in [*self._kept][: self._limits.kept_traces // 4]:
            if trace_id not in still_open:
                del self._kept[trace_id]


def trace_id_of(span: ReadableSpan) -> int:
    """The trace of a span; 0 if the span has no ids."""
    context = span.context
    return 0 if context is None else context.trace_id
