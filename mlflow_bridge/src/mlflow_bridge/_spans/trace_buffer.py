# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The ended spans of traces that are not decided yet, and what is known of each trace."""

from __future__ import annotations

import logging
import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Generic, Protocol, TypeVar

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.span_size import size_of

_logger = logging.getLogger(__name__)

Facts = TypeVar("Facts")
"""Facts of one trace that a policy remembers; None if it remembers nothing."""

Spans = Callable[[], Sequence[ReadableSpan]]


class Decision(Enum):
    """The outcome for all spans of a trace."""

    KEEP = "keep"
    DROP = "drop"
    """Dropped, unless a later span brings the trace back."""
    REFUSE = "refuse"
    """Dropped for good."""


class TracePolicy(ABC, Generic[Facts]):
    """Decides on traces, from their ended spans.

    The policy remembers facts and not spans, so that a span need not wait until its root has ended.
    What a root needs to know of its descendants goes into the facts of the trace.
    """

    grace_seconds: float = 0.0
    """How long a complete trace waits if `waits` says so."""
    has_labels: bool = False
    """Whether `label` does anything."""

    @abstractmethod
    def new_facts(self) -> Facts:
        """Make the facts of a trace of which no span is known."""

    @abstractmethod
    def note(self, span: ReadableSpan, facts: Facts) -> Decision | None:
        """Add a span to the facts of its trace. Returns a decision if the span is enough for it.

        Called once for each span, also if the trace is decided, but not after a REFUSE. A KEEP
        after a DROP brings back the local root of the trace.
        """

    @abstractmethod
    def conclude(self, facts: Facts, spans: Spans, *, complete: bool) -> Decision:
        """Decide on a trace.

        Args:
            facts: The facts of the trace.
            spans: Returns the ended spans of the trace.
            complete: Whether the local root has ended and no other span of the trace is open. If
                not, the buffer has no more room, or holds the trace for too long.
        """

    def waits(self, facts: Facts) -> bool:
        """Whether a complete trace waits for something that may follow; see `grace_seconds`."""
        return False

    def label(self, root: ReadableSpan, facts: Facts) -> None:
        """Add what a local root of a kept trace is to show, before the root is passed on."""


class Parking(Protocol):
    """Keeps the spans of long traces outside of memory until they are decided."""

    def park(self, trace_id: int, spans: Sequence[ReadableSpan]) -> bool:
        """Keep these spans; False if that is not possible."""
        ...

    def spans_of(self, trace_id: int) -> Sequence[ReadableSpan]:
        """The spans that are kept of a trace."""
        ...

    def deliver(self, trace_id: int) -> None:
        """Have the spans of a trace delivered."""
        ...

    def discard(self, trace_id: int) -> None:
        """Remove the spans of a trace."""
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
    refused_traces: int = 65_536
    """Traces that are remembered as dropped for good."""
    parked_traces: int = 128
    """Undecided traces whose spans are parked outside of memory."""


@dataclass
class Sorted:
    """Spans that the buffer does not hold, or holds no longer."""

    kept: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    dropped: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    revived: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    """Local roots that were dropped before, of traces that are kept after all."""
    parked: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    """Spans of undecided traces that are parked outside of memory."""
    undecided: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    """At the end, the spans of traces that are to be decided elsewhere."""


@dataclass(slots=True)
class _Trace(Generic[Facts]):
    facts: Facts
    since: float
    spans: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    bytes: int = 0
    root: ReadableSpan | None = None
    """The local root, once it has ended; the last one if there are several."""
    is_parked: bool = False


class TraceBuffer(Generic[Facts]):
    """The ended spans of a trace until a policy has decided on the trace.

    From its decision on, a trace is not held any more: its later spans, too, are kept or dropped.
    An undecided trace is decided at the latest when its local root has ended and no other span of
    it is open in this process; see `begin`. The buffer is bounded in traces, spans, bytes and age.
    Beyond a limit, the ended spans of the oldest trace are parked if its root is still open, and
    the trace waits for its end. If they cannot be parked, the policy decides.

    Called by one thread at a time, except for `kept_traces`, `refused_traces` and `is_kept`. A
    forked child makes a new buffer: the held spans belong to its parent.

    Args:
        policy: Decides on the traces.
        limits: What is held at most.
        open_traces: Returns the traces that have an open span in this process.
        clock: Seconds, as from `time.monotonic`.
        parking: Keeps the spans of long traces; None if they are not to be parked.
    """

    def __init__(
        self,
        policy: TracePolicy[Facts],
        limits: BufferLimits,
        *,
        open_traces: Callable[[], set[int]],
        clock: Callable[[], float] = time.monotonic,
        parking: Parking | None = None,
    ) -> None:
        self._parking = parking
        self._policy = policy
        self._labels = policy.has_labels
        self._limits = limits
        self._open_traces = open_traces
        self._clock = clock
        # A trace is in one of these, the oldest first.
        self._undecided: OrderedDict[int, _Trace[Facts]] = OrderedDict()
        self._kept: OrderedDict[int, Facts] = OrderedDict()
        self._dropped: OrderedDict[int, _Trace[Facts]] = OrderedDict()
        self._refused: OrderedDict[int, None] = OrderedDict()
        self._parked: OrderedDict[int, None] = OrderedDict()
        """The undecided traces of which spans are parked, the oldest first."""
        self._rooted: dict[int, None] = {}
        """The undecided traces whose local root has ended."""
        self._waiting: OrderedDict[int, float] = OrderedDict()
        """When each complete trace stops waiting for what may follow, the next one first."""
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

    def conclude(self, *, without_wait: bool = False) -> Sorted:
        """Decide on complete traces, see `begin`, and on traces beyond the limits.

        Args:
            without_wait: Whether complete traces are decided at once.

        Returns:
            Their spans.
        """
        for trace_id in [trace_id for trace_id in self._rooted if trace_id not in self._open]:
            if not without_wait and self._policy.grace_seconds and self._waits(trace_id):
                del self._rooted[trace_id]
                self._waiting[trace_id] = self._clock() + self._policy.grace_seconds
            else:
                self._conclude(trace_id, complete=True)
        self._end_waits(math.inf if without_wait else self._clock())
        # Afterwards: complete traces make room.
        self._conclude_overdue()
        return self._take_ready()

    def _waits(self, trace_id: int) -> bool:
        try:
            return self._policy.waits(self._undecided[trace_id].facts)
        except Exception:
            _logger.debug("The policy raised", exc_info=True)
            return False

    def _end_waits(self, now: float) -> None:
        while self._waiting:
            trace_id, until = next(iter(self._waiting.items()))
            if until > now:
                return
            self._conclude(trace_id, complete=True)

    def _conclude(self, trace_id: int, *, complete: bool) -> None:
        self._decide(trace_id, self._conclusion(trace_id, complete=complete))

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
        if trace_id in self._refused:
            return
        if trace_id in self._kept:
            self._decision_on(span, self._kept[trace_id])
            return
        trace = self._undecided.get(trace_id) or self._dropped.get(trace_id)
        known = trace or self._new_trace()
        decision = self._decision_on(span, known.facts)
        if trace is None and (decision is not None or known.facts is not None):
            self._undecided[trace_id] = known
        self._decide(trace_id, decision)
        # Perhaps the span is the root, and is not placed.
        if trace_id in self._undecided and is_local_root(span):
            self._rooted[trace_id] = None

    def keep(self, traces: Iterable[int]) -> None:
        """Keep these traces. The next `add` returns their held spans and dropped roots."""
        for trace_id in traces:
            self._refused.pop(trace_id, None)
            if trace_id not in self._kept and trace_id not in self._dropped:
                self._undecided.setdefault(trace_id, self._new_trace())
            self._keep(trace_id)

    def refuse(self, traces: Iterable[int]) -> None:
        """Drop these traces, unless they are known already."""
        for trace_id in traces:
            if trace_id not in self._kept and trace_id not in self._undecided:
                self._refused[trace_id] = None

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

    def refused_traces(self) -> list[int]:
        """The traces that are dropped for good. May be called by any thread."""
        return list(self._refused)

    def is_kept(self, trace_id: int) -> bool:
        """Whether a trace is known to be kept. May be called by any thread."""
        return trace_id in self._kept

    def close(self, *, decides: bool = True) -> Sorted:
        """End the buffer.

        Args:
            decides: Whether the policy decides on all traces that are left. If not, their spans are
                returned as undecided; only parked traces are decided.
        """
        for trace_id in list(self._undecided if decides else self._parked):
            self._conclude(trace_id, complete=True)
        ready, self._ready = self._ready, Sorted()
        for trace in self._undecided.values():
            ready.undecided += trace.spans
        self._undecided.clear()
        self._rooted.clear()
        self._waiting.clear()
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
        if trace_id in self._refused:
            self._ready.dropped.append(span)
        elif trace_id in self._kept:
            self._kept.move_to_end(trace_id)
            if self._labels:
                self._label((span,), self._kept[trace_id])
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
        is_root = is_local_root(span)
        # The root stays in memory, since it may get a label.
        if trace.is_parked and not is_root and self._is_parked(trace_id, (span,)):
            self._ready.parked.append(span)
            return
        trace.spans.append(span)
        size = size_of(span)
        trace.bytes += size
        self._held_bytes += size
        self.held += 1
        if is_root:
            trace.root = span
        if is_root or self._waiting.pop(trace_id, None) is not None:
            self._rooted[trace_id] = None

    def _decide(self, trace_id: int, decision: Decision | None) -> None:
        if decision is Decision.KEEP:
            self._keep(trace_id)
        elif decision is not None and trace_id in self._undecided:
            trace = self._release(trace_id, self._ready.dropped)
            self._remember_dropped(trace_id, trace, decision)
            if trace.is_parked:
                self._call_parking(lambda parking: parking.discard(trace_id))

    def _remember_dropped(self, trace_id: int, trace: _Trace[Facts], decision: Decision) -> None:
        if decision is Decision.REFUSE:
            self._refused[trace_id] = None
            if len(self._refused) > self._limits.refused_traces:
                self._refused.popitem(last=False)
            return
        self._dropped[trace_id] = trace
        if len(self._dropped) > self._limits.dropped_traces:
            self._dropped.popitem(last=False)

    def _keep(self, trace_id: int) -> None:
        dropped = self._dropped.pop(trace_id, None)
        if dropped is not None:
            if dropped.root is not None:
                self._label((dropped.root,), dropped.facts)
                self._ready.revived.append(dropped.root)
            self._kept[trace_id] = dropped.facts
        elif trace_id in self._undecided:
            trace = self._undecided[trace_id]
            self._label(trace.spans, trace.facts)
            self._kept[trace_id] = self._release(trace_id, self._ready.kept).facts
            if trace.is_parked:
                self._call_parking(lambda parking: parking.deliver(trace_id))

    def _label(self, spans: Iterable[ReadableSpan], facts: Facts) -> None:
        try:
            for span in spans:
                if is_local_root(span):
                    self._policy.label(span, facts)
        except Exception:
            _logger.debug("The policy raised", exc_info=True)

    def _release(self, trace_id: int, to: list[ReadableSpan]) -> _Trace[Facts]:
        trace = self._undecided.pop(trace_id)
        self._rooted.pop(trace_id, None)
        self._waiting.pop(trace_id, None)
        self._parked.pop(trace_id, None)
        to += trace.spans
        self._empty(trace)
        return trace

    def _empty(self, trace: _Trace[Facts]) -> None:
        self.held -= len(trace.spans)
        self._held_bytes -= trace.bytes
        trace.spans, trace.bytes = [], 0

    def _conclude_overdue(self) -> None:
        for trace_id in list(self._undecided):
            if not self._is_beyond_limits(self._undecided[trace_id]):
                return
            if trace_id not in self._parked and not self._parks(trace_id):
                self._conclude(trace_id, complete=False)

    def _is_beyond_limits(self, trace: _Trace[Facts]) -> bool:
        limits = self._limits
        return (
            self.held > limits.spans
            or self._held_bytes > limits.bytes
            or len(self._undecided) > limits.traces
            or self._clock() - trace.since > limits.age_seconds
        )

    def _parks(self, trace_id: int) -> bool:
        """Park the spans of a trace whose root is still open; False if that is not possible."""
        trace = self._undecided[trace_id]
        if trace.root is not None or trace_id not in self._open:
            return False
        if len(self._undecided) > self._limits.traces or not trace.spans:
            return False
        if not self._is_parked(trace_id, trace.spans):
            return False
        self._ready.parked += trace.spans
        self._empty(trace)
        trace.is_parked = True
        self._parked[trace_id] = None
        if len(self._parked) > self._limits.parked_traces:
            self._conclude(next(iter(self._parked)), complete=False)
        return True

    def _is_parked(self, trace_id: int, spans: Sequence[ReadableSpan]) -> bool:
        return self._call_parking(lambda parking: parking.park(trace_id, spans)) is True

    def _call_parking(self, call: Callable[[Parking], object]) -> object:
        if self._parking is None:
            return None
        try:
            return call(self._parking)
        except Exception:
            _logger.warning("The spans of a long trace cannot be parked", exc_info=True)
            return None

    def _conclusion(self, trace_id: int, *, complete: bool) -> Decision:
        trace = self._undecided[trace_id]
        try:
            spans = partial(self._spans_of, trace_id)
            return self._policy.conclude(trace.facts, spans, complete=complete)
        except Exception:
            _logger.debug("The policy raised", exc_info=True)
            return Decision.KEEP

    def _spans_of(self, trace_id: int) -> Sequence[ReadableSpan]:
        trace = self._undecided[trace_id]
        if not trace.is_parked or self._parking is None:
            return trace.spans
        return [*self._parking.spans_of(trace_id), *trace.spans]

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
