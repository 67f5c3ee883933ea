# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata and annotations of stored traces that still wait when the last span is delivered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from mlflow_bridge._delivery.slots import FlushMark
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import DetailsWriter

_logger = logging.getLogger(__name__)

_SECONDS: Final = 2.0
"""Longest time for both after the last span."""

_IDLE_ROUNDS: Final = 3
"""Attempts at the annotations in which MLflow takes none."""


class LastDetails:
    """Writes what waits at the end of a process. Used by the sender's thread.

    Args:
        details: Has what waits; None if the exporter has no details.
        spool: The spool; None without one.
    """

    def __init__(self, details: DetailsWriter | None, spool: Spool | None) -> None:
        self._details = details
        self._spool = spool

    def are_due_before(self, mark: object) -> bool:
        """Whether annotations are to be written before a mark is reached.

        The program may be killed behind the last mark.
        """
        is_open = isinstance(mark, FlushMark) and not mark.is_annotated
        return is_open and self._details is not None and self._details.has_waiting_annotations

    def write_before(self, mark: object, may_go_on: Callable[[], bool]) -> None:
        """Write the annotations before a mark; the rest goes to the spool."""
        details, spool = self._details, self._spool
        if details is None or not isinstance(mark, FlushMark):
            return
        mark.is_annotated = True
        # Annotations of traces that are on the disk go behind them.
        if spool is None or not spool.has_own_backlog:
            _write(details, lambda: details.has_waiting_annotations and may_go_on())
        if spool is not None:
            _keep(details, spool)

    def write(self, may_write: Callable[[], bool]) -> None:
        """Write everything; the annotations that are left go to the spool.

        Args:
            may_write: Whether something waits and may be written now.
        """
        if self._details is None:
            return
        try:
            _write(self._details, may_write)
            _keep(self._details, self._spool)
        except BaseException:
            _logger.debug("The metadata of a trace could not be written", exc_info=True)


def _write(details: DetailsWriter, may_write: Callable[[], bool]) -> None:
    until, idle, waiting = time.monotonic() + _SECONDS, 0, -1
    while may_write() and time.monotonic() < until and idle < _IDLE_ROUNDS:
        # A refusal a moment ago must not lose an annotation.
        before, waiting = waiting, details.make_annotations_due()
        idle = idle + 1 if waiting == before else 0
        while may_write() and time.monotonic() < until and details.write_pending_details():
            pass


def _keep(details: DetailsWriter, spool: Spool | None) -> None:
    left = details.take_waiting_annotations()
    if left and (spool is None or not spool.spill(left)):
        _logger.warning("%d assessments or tags of traces are lost at the exit.", len(left))
