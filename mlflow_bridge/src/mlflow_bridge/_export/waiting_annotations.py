# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Annotations that MLflow did not take although it takes spans: they must not hold up any span."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.contract import NOT_STORED, Rejected, Retry
from mlflow_bridge._spans.annotation_order import annotation_order

_MAX_WAITING: Final = 10_000
_MAX_ATTEMPTS: Final = 3
"""Attempts at an annotation of a trace that MLflow has."""
_MAX_SECONDS: Final = 600.0
"""How long an annotation waits for its trace, whose spans may be in the spool."""
_PAUSE_SECONDS: Final = 5.0
_MAX_SECONDS_BEHIND: Final = 30.0
"""How long an annotation waits for an earlier one of its trace, which may be lost."""


@dataclass(slots=True)
class Waiting:
    """An annotation that waits.

    Attributes:
        span: The annotation as a span.
        since: When it began to wait, in seconds of the clock.
        due_at: When the next attempt is made.
        attempts: Attempts that failed for a reason other than a missing trace.
    """

    span: ReadableSpan
    since: float
    due_at: float
    attempts: int = 0


class WaitingAnnotations:
    """Annotations that are tried again apart from spans. Used by one thread at a time.

    Args:
        clock: Seconds, as from `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: OrderedDict[int, Waiting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, span: ReadableSpan, failure: Retry | Rejected) -> Rejected | None:
        """Let an annotation wait after a failure; a rejection if it is given up."""
        now = self._clock()
        item = self._waiting.get(id(span)) or Waiting(span, now, now)
        if failure == NOT_STORED:
            is_over = now - item.since >= _MAX_SECONDS
        else:
            item.attempts += 1
            is_over = item.attempts >= _MAX_ATTEMPTS
        if is_over:
            self.remove(span)
            return Rejected(failure.reason)
        item.due_at = now + _PAUSE_SECONDS
        return self._keep(item)

    def put_behind(self, span: ReadableSpan) -> Rejected | None:
        """Let an annotation wait for the earlier ones of its trace; a rejection if it cannot."""
        now = self._clock()
        return self._keep(Waiting(span, now, now))

    def _keep(self, item: Waiting) -> Rejected | None:
        key = id(item.span)
        if key not in self._waiting and len(self._waiting) >= _MAX_WAITING:
            return Rejected("too many assessments and tags wait for MLflow")
        self._waiting[key] = item
        return None

    def due(self) -> ReadableSpan | None:
        """An annotation that is due; it stays here until `put` or `remove`."""
        now = self._clock()
        return next((item.span for item in self._waiting.values() if _is_due(item, now)), None)

    def make_due(self) -> None:
        """Let no annotation wait for time, since the process ends."""
        now = self._clock()
        for item in self._waiting.values():
            item.due_at = now

    def remove(self, span: ReadableSpan) -> None:
        """Remove an annotation that is stored."""
        self._waiting.pop(id(span), None)

    def take_all(self) -> list[ReadableSpan]:
        """Take out everything that waits, in order."""
        taken, self._waiting = self._waiting, OrderedDict()
        return [item.span for item in taken.values()]


def _is_due(item: Waiting, now: float) -> bool:
    if item.due_at > now:
        return False
    return annotation_order.is_first(item.span) or now - item.since >= _MAX_SECONDS_BEHIND
