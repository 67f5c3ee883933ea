# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The filter of traces: only traces with a DSPy or GenAI span go to MLflow."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.names import EXPERIMENT_ID, SOURCE_RUN, TRACE_ID, TRACE_TAG_PREFIX
from opentelemetry.instrumentation.dspy.semconv import DSPY_UNFINISHED, GEN_AI_CONVERSATION_ID

_DSPY: Final = "opentelemetry.instrumentation.dspy"
_PREFIXES: Final = ("dspy.", "gen_ai.", "llm.", "mlflow.", "openinference.", "traceloop.")
# The bridge itself writes these attributes on any span.
_NO_SIGN: Final = frozenset(
    {GEN_AI_CONVERSATION_ID, DSPY_UNFINISHED, EXPERIMENT_ID, SOURCE_RUN, TRACE_ID}
)

_MAX_AGE_SECONDS: Final = 300.0
_REMEMBERED: Final = 65_536
_REMEMBERED_ROOTS: Final = 1024


@dataclass
class _Undecided:
    """The ended spans of a trace in which no DSPy or GenAI span was seen so far."""

    since: float
    spans: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    root: ReadableSpan | None = None
    """The local root of the trace, once it has ended; the last one if there are several."""


class TraceFilter:
    """A filter that passes on traces with a DSPy or GenAI span, and holds other spans back.

    A span counts as a GenAI span if its scope is our instrumentation, or if it has an attribute of
    a GenAI vocabulary; MLflow's own spans are included. From its first GenAI span on, a trace
    passes, and its held spans are sent first. The held spans of a trace are dropped when its local
    root has ended and no other span of it is open in this process. A dropped root is remembered for
    a while, because a task may go on with its trace: the root is then sent after all.

    No span is held for ever. A trace passes as a whole when it has been held for five minutes. If
    more than ``max_spans`` are held, the oldest trace passes. Both limits are checked when spans
    arrive.

    Called by one thread at a time.

    Args:
        max_spans: The most spans that may be held.
        open_traces: Returns the traces that have an open span in this process.
        clock: Seconds, as from `time.monotonic`.
    """

    def __init__(
        self,
        *,
        max_spans: int,
        open_traces: Callable[[], set[int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_spans = max_spans
        self._open_traces = open_traces
        self._clock = clock
        self._wanted: OrderedDict[int, None] = OrderedDict()
        self._undecided: OrderedDict[int, _Undecided] = OrderedDict()
        self._dropped_roots: OrderedDict[int, ReadableSpan | None] = OrderedDict()
        self.held = 0
        """Number of spans that are held back now."""
        self._revived: list[ReadableSpan] = []

    def sort(self, spans: Sequence[ReadableSpan]) -> tuple[list[ReadableSpan], list[ReadableSpan]]:
        """Divide the given and the held spans into spans to send and spans to drop."""
        for span in spans:
            if is_of_genai(span):
                self._want(_trace_of(span))
        sent: list[ReadableSpan] = []
        dropped: list[ReadableSpan] = []
        now = self._clock()
        for span in spans:
            trace = _trace_of(span)
            if trace in self._wanted:
                self._wanted.move_to_end(trace)
                sent += self._released(trace)
                sent.append(span)
            elif trace in self._dropped_roots:
                dropped.append(span)
            else:
                self._hold(trace, span, now)
        dropped += self._decided()
        sent += self._overdue(now)
        return sent, dropped

    def wanted(self) -> list[int]:
        """The traces that pass. May be called by any thread."""
        # A single call into C, which no other thread interrupts.
        return list(self._wanted)

    def want(self, traces: Iterable[int]) -> None:
        """Let these traces pass. `sort` returns the held spans of a trace with its next span."""
        for trace in traces:
            self._want(trace)

    def take_revived(self) -> list[ReadableSpan]:
        """Take the roots that were dropped before the last `sort` and are wanted after all."""
        revived, self._revived = self._revived, []
        return revived

    def close(self) -> list[ReadableSpan]:
        """Return the held spans, all of traces in which no GenAI span was seen."""
        return [span for trace in tuple(self._undecided) for span in self._released(trace)]

    def _want(self, trace: int) -> None:
        if trace in self._wanted:
            return
        self._wanted[trace] = None
        root = self._dropped_roots.pop(trace, None)
        if root is not None:
            self._revived.append(root)
        if len(self._wanted) > _REMEMBERED:
            self._forget_some()

    def _forget_some(self) -> None:
        still_open = self._open_traces()
        for trace in [*self._wanted][: _REMEMBERED // 4]:
            if trace not in still_open:
                del self._wanted[trace]

    def _hold(self, trace: int, span: ReadableSpan, now: float) -> None:
        undecided = self._undecided.get(trace)
        if undecided is None:
            undecided = self._undecided[trace] = _Undecided(now)
        undecided.spans.append(span)
        if is_local_root(span):
            undecided.root = span
        self.held += 1

    def _released(self, trace: int) -> list[ReadableSpan]:
        undecided = self._undecided.pop(trace, None)
        if undecided is None:
            return []
        self.held -= len(undecided.spans)
        return undecided.spans

    def _decided(self) -> Iterable[ReadableSpan]:
        """The spans of traces that have ended without a GenAI span."""
        rooted = {trace: entry.root for trace, entry in self._undecided.items() if entry.root}
        if not rooted:
            return
        still_open = self._open_traces()
        for trace, root in rooted.items():
            if trace not in still_open:
                self._dropped_roots[trace] = root
                yield from self._released(trace)
        while len(self._dropped_roots) > _REMEMBERED_ROOTS:
            self._dropped_roots.popitem(last=False)

    def _overdue(self, now: float) -> Iterable[ReadableSpan]:
        """The spans of traces that pass because a limit is exceeded."""
        while self._undecided:
            trace, entry = next(iter(self._undecided.items()))
            if self.held <= self._max_spans and now - entry.since <= _MAX_AGE_SECONDS:
                return
            self._want(trace)
            yield from self._released(trace)


def is_of_genai(span: ReadableSpan) -> bool:
    """Whether this span makes its trace one for MLflow."""
    scope = span.instrumentation_scope
    if scope is not None and scope.name == _DSPY:
        return True
    return any(
        key.startswith(_PREFIXES) and key not in _NO_SIGN and not key.startswith(TRACE_TAG_PREFIX)
        for key in span.attributes or ()
    )


def _trace_of(span: ReadableSpan) -> int:
    context = span.context
    return 0 if context is None else context.trace_id
