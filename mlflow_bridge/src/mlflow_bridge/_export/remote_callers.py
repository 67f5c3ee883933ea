# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Traces that another process began: below the caller's span, or complete without it.

The first span of a trace in a called process has a parent in the calling process. If the caller's
spans come to the same store, the span belongs below its parent, and the caller's root gives the
trace its state, name and previews. If they never come, this span has to be the root: a trace
without a root stays "in progress" for ever. Which of both it will be is unknown when the span is
stored, since a caller's spans end later.

So the span is stored below its parent first, and the trace is looked up after some time. The span
becomes the root if the trace has no earlier span by then, and goes back below its parent if a
caller's span comes after all. While callers do not come, as behind a gateway that is traced
elsewhere, spans become roots at once, except for one trace in a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.contract import Retry, TraceSight

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 10.0
"""Time in which a caller's spans usually come."""
_LONGEST_SECONDS: Final = 600.0
_LONGEST_PAUSE_SECONDS: Final = 120.0
_PROBE_SECONDS: Final = 60.0
"""Time between two traces that wait for a caller while callers do not come."""
_MAX_TRACES: Final = 2000
"""Each trace in this number keeps its local roots in memory."""

LookUp = Callable[[int], TraceSight | Retry | None]
"""What the store has of a trace; None if it has nothing of the trace."""
Store = Callable[[Sequence[ReadableSpan], bool], bool]
"""Stores local roots again, below their parents or as roots; returns whether they are stored."""


@dataclass(slots=True)
class _Called:
    """The local roots of one trace."""

    trace_id: int
    stored_at: float
    check_at: float
    pause: float
    spans: list[ReadableSpan] = field(default_factory=list[ReadableSpan])
    are_roots: bool = False

    @property
    def start_ms(self) -> int:
        """The earliest start, as MLflow has it for a trace."""
        return min((span.start_time or 0) // 1_000_000 for span in self.spans)


class RemoteCallers:
    """The decision on each local root with a remote parent. Thread-safe.

    A thread looks at traces in the store. It exists while there are traces to look at.

    Args:
        look_up: Looks a trace up in the destination.
        store: Stores spans again.
        grace: Seconds until the first look at a trace.
        clock: Returns seconds.
    """

    def __init__(
        self,
        look_up: LookUp,
        store: Store,
        *,
        grace: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up
        self._store = store
        self._grace = GRACE_SECONDS if grace is None else grace
        self._clock = clock
        self._changed = threading.Condition()
        self._called: dict[int, _Called] = {}
        self._thread: threading.Thread | None = None
        self._ending = False
        # Whether the last decided trace had no caller in the store.
        self._alone = False
        self._next_probe_at = 0.0

    @property
    def is_waiting(self) -> bool:
        """Whether there are traces to look at."""
        return bool(self._called)

    def awaits(self, span: ReadableSpan) -> bool:
        """Whether to store a span below its remote parent.

        Args:
            span: A local root.
        """
        parent = span.parent
        if parent is None or not parent.is_remote or not parent.trace_flags.sampled:
            return False
        with self._changed:
            known = self._called.get(parent.trace_id)
            if known is not None:
                return not known.are_roots
            if self._ending or len(self._called) >= _MAX_TRACES:
                return False
            if self._alone:
                now = self._clock()
                if now < self._next_probe_at:
                    return False
                self._next_probe_at = now + _PROBE_SECONDS
            return True

    def add(self, span: ReadableSpan) -> None:
        """Note that a local root is stored below its remote parent."""
        context = span.context
        if context is None:
            return
        with self._changed:
            known = self._called.get(context.trace_id)
            if known is None:
                now = self._clock()
                known = _Called(context.trace_id, now, now + self._grace, self._grace)
                self._called[context.trace_id] = known
            known.spans.append(span)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="mlflow-bridge-callers", daemon=True
                )
                self._thread.start()
            self._changed.notify()

    def finish(self, seconds: float) -> None:
        """Complete the traces that wait for a caller, for at most this time."""
        with self._changed:
            self._ending = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(seconds, 0.0))

    def _run(self) -> None:
        while due := self._next_due():
            for called in due:
                try:
                    ended = self._visit(called)
                except Exception:
                    logger.debug("A trace of a remote caller could not be completed", exc_info=True)
                    ended = True
                with self._changed:
                    if ended or self._ending:
                        self._called.pop(called.trace_id, None)

    def _next_due(self) -> list[_Called]:
        """Wait for traces to look at; empty if no trace is left, after which the thread ends."""
        with self._changed:
            while self._called:
                if self._ending:
                    return list(self._called.values())
                now = self._clock()
                due = [called for called in self._called.values() if called.check_at <= now]
                if due:
                    return due
                first = min(called.check_at for called in self._called.values())
                self._changed.wait(first - now)
            self._thread = None
            return []

    def _visit(self, called: _Called) -> bool:
        """Look at a trace and act; return whether the trace needs no further look."""
        sight = self._look_up(called.trace_id)
        if sight is None:  # The trace was deleted.
            return True
        waited = self._clock() - called.stored_at
        if isinstance(sight, Retry):
            self._later(called, waited)
            return False
        has_caller = sight.start_ms < called.start_ms
        if called.are_roots:
            return self._visit_roots(called, waited, has_caller=has_caller)
        if sight.has_root:
            self._alone = False
            return True
        if (self._ending and not self._alone) or waited >= _LONGEST_SECONDS:
            # First as roots, which ends the trace in MLflow, then in their place.
            return self._store(called.spans, False) and self._store(called.spans, True)
        if has_caller:
            return self._later(called, waited)
        called.are_roots = self._store(called.spans, False)
        self._alone = self._alone or called.are_roots
        return self._later(called, waited)

    def _visit_roots(self, called: _Called, waited: float, *, has_caller: bool) -> bool:
        if not has_caller:
            return self._ending or self._later(called, waited)
        self._alone = False
        return self._store(called.spans, True)

    def _later(self, called: _Called, waited: float) -> bool:
        called.check_at = self._clock() + called.pause
        called.pause = min(2 * called.pause, _LONGEST_PAUSE_SECONDS)
        return waited >= _LONGEST_SECONDS
