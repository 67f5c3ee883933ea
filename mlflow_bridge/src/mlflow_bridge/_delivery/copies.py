# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Copies on disk of the spans that wait in memory, for the case that the process is killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.spool import Spool

_STEP_SPANS: Final = 512


class Copying:
    """Copies the waiting spans to the spool in small steps, the last spans first.

    The spans go on waiting, and the spool removes a copy when its span is settled. The sender takes
    the waiting spans from the other end, so that few of them are both sent and copied.

    ``begin`` may be called by any thread, ``go_on`` by the thread that writes.

    Args:
        waiting: Returns the spans that wait now, in the order in which they are sent.
    """

    def __init__(self, waiting: Callable[[], Sequence[ReadableSpan]]) -> None:
        self._waiting = waiting
        self._is_under_way = False
        self._impossible: set[int] = set()
        """Ids of objects that can never be written; of spans that wait."""

    def begin(self) -> bool:
        """Note that the copying is under way. False if it is already."""
        if self._is_under_way:
            return False
        self._is_under_way = True
        return True

    def go_on(self, spool: Spool) -> bool:
        """Make one step. False if all waiting spans have a copy, or the disk refuses."""
        goes_on = False
        try:
            goes_on = self._step(spool)
        finally:
            self._is_under_way = goes_on
        return goes_on

    def _step(self, spool: Spool) -> bool:
        waiting = self._waiting()
        self._impossible &= set(map(id, waiting))
        absent = [*islice(filter(self._needs_copy(spool), reversed(waiting)), _STEP_SPANS)][::-1]
        count = spool.copy_first(absent)
        copied = absent[:count]
        self._impossible |= {id(span) for span in copied if not spool.has_written_ahead(span)}
        # The sender may have settled a span while it was being copied.
        still = set(map(id, self._waiting()))
        spool.settled([span for span in copied if id(span) not in still])
        return count > 0

    def _needs_copy(self, spool: Spool) -> Callable[[ReadableSpan], bool]:
        impossible = self._impossible
        return lambda span: not spool.has_written_ahead(span) and id(span) not in impossible
