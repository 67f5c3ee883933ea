# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The open spans of a process, so that no span is missing when the process ends."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final
from weakref import WeakSet, WeakValueDictionary

from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import Status, StatusCode

from opentelemetry.instrumentation.dspy.semconv import DSPY_UNFINISHED

_logger = logging.getLogger(__name__)

UNFINISHED: Final = "the process ended before this span did"
"""Status description of a span that the bridge has ended, because the program has not."""

_HELD: Final = 4096
_DEMOTED_AT_ONCE: Final = 1024
_TAKEN: Final = 1024
_REPORTED_WITHIN_NANOSECONDS: Final = 100_000_000


class OpenSpans:
    """The sampled spans of one process, from their start to their end.

    ``started`` and ``ended`` are called by any thread of the program for every span; each of them
    is one operation on a dictionary and takes no lock. The newest 4096 open spans are held, so that
    spans without other references are ended, too. Older spans have only a weak reference. So a
    program that forgets to end its spans costs a bounded amount of memory.

    Attributes:
        held: The newest open spans by their ids. A caller that handles every span may look here
            first, and take out spans that have ended.
        leaving: Spans that have ended and are on their way to a queue, by the ids of the objects.
            They are put here before they are taken out of ``held``.
    """

    def __init__(self) -> None:
        self.held: dict[int, Span] = {}
        self.leaving: dict[int, ReadableSpan] = {}
        self._known: WeakValueDictionary[int, Span] = WeakValueDictionary()
        self._taken: dict[int, None] = {}
        self._demoting = threading.Lock()
        _registers.add(self)

    def __len__(self) -> int:
        return len(self.held) + len(self._known)

    def __contains__(self, span_id: object) -> bool:
        return span_id in self.held or span_id in self._known

    def get(self, span_id: int) -> Span | None:
        """The open span with this id."""
        return self.held.get(span_id) or self._known.get(span_id)

    def started(self, span_id: int, span: Span) -> None:
        """Remember the span."""
        held = self.held
        held[span_id] = span
        if len(held) > _HELD:
            self._demote()

    def ended(self, span_id: int) -> bool:
        """Forget the span. False if `take_missed` has taken it out."""
        if self.held.pop(span_id, None) is not None:
            return True
        if self._known and self._known.pop(span_id, None) is not None:
            return True
        return span_id not in self._taken

    def _demote(self) -> None:
        """Keep only weak references to the oldest spans."""
        # One thread suffices. Non-blocking, since a garbage collection may re-enter here.
        if not self._demoting.acquire(blocking=False):
            return
        try:
            for span_id in list(self.held)[:_DEMOTED_AT_ONCE]:
                span = self.held.get(span_id)
                if span is not None:
                    self._known[span_id] = span
                    # In this order, so that a span that ends meanwhile stays in neither mapping.
                    if self.held.pop(span_id, None) is None:
                        self._known.pop(span_id, None)
        finally:
            self._demoting.release()

    def _all(self) -> list[Span]:
        # Not values() of the weak dictionary: it fails if another thread starts a span meanwhile.
        known = [span for refers in self._known.valuerefs() if (span := refers()) is not None]
        return [*known, *list(self.held.values())]

    def unqueued(self) -> list[ReadableSpan]:
        """The spans that are open, or on their way to a queue."""
        spans: list[ReadableSpan] = [*self._all()]
        # Afterwards, so that no span is missed that leaves at this moment.
        spans += list(self.leaving.values())
        return spans

    def trace_ids(self) -> set[int]:
        """The traces that have a span that is open, or on its way to a queue."""
        spans = self.unqueued()
        return {context.trace_id for span in spans if (context := span.get_span_context())}

    def has(self, trace_id: int) -> bool:
        """Whether the trace has an open span."""
        return any(span.get_span_context().trace_id == trace_id for span in self._all())

    def move_to(self, other: OpenSpans) -> None:
        """Move the open spans to another registry."""
        for span in self._all():
            self.ended(span.get_span_context().span_id)
            # No call would ever remove a span there that has ended in the meantime.
            if span.is_recording():
                other.started(span.get_span_context().span_id, span)

    def take_missed(self) -> list[Span]:
        """Take out spans that have ended, but were not reported by ``ended``.

        A signal handler that raises can prevent that report. Spans that ended less than a tenth of
        a second ago stay: the thread that has ended them may be about to report them. If a thread
        needs longer, `ended` tells it that the span is taken.
        """
        limit = time.time_ns() - _REPORTED_WITHIN_NANOSECONDS
        ended = [span for span in self._all() if (span.end_time or limit) < limit]
        return [span for span in ended if self._take(span.get_span_context().span_id)]

    def _take(self, span_id: int) -> bool:
        taken = self._taken
        # Before the span is taken out: its thread finds it in one of the three at any moment.
        taken[span_id] = None
        if self.held.pop(span_id, None) is None and self._known.pop(span_id, None) is None:
            del taken[span_id]
            return False
        while len(taken) > _TAKEN:  # Most of their threads will never report them.
            del taken[next(iter(taken))]
        return True

    def finish(self) -> int:
        """End every sampled span, the youngest first, so that children end before their parents.

        Each span gets the attribute ``dspy.unfinished``, and the status ERROR unless it has a
        status: its operation has not completed, and MLflow would otherwise show the trace as OK.
        The span is ended as the program would have ended it, so every span processor of its tracer
        provider gets it.

        Returns:
            The number of spans that were ended.
        """
        finished = 0
        for span in reversed(self._all()):
            if span.is_recording() and span.get_span_context().trace_flags.sampled:
                try:
                    end_unfinished(span)
                    finished += 1
                except Exception:  # Raised by another span processor, for instance.
                    _logger.warning("The open span %s could not be ended", span.name, exc_info=True)
        return finished


_registers: WeakSet[OpenSpans] = WeakSet()


def open_span(span_id: int) -> Span | None:
    """The open span of this process with this id."""
    for register in list(_registers):
        span = register.get(span_id)
        if span is not None:
            return span
    return None


def end_unfinished(span: Span) -> None:
    """End a span that its program cannot end any more, and mark it."""
    span.set_attribute(DSPY_UNFINISHED, True)
    if span.status.is_unset:
        span.set_status(Status(StatusCode.ERROR, UNFINISHED))
    span.end()
