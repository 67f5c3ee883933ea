# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Delivery of the spans in the spool, in small steps between live spans."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from traceback import format_exception_only
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.spool.undecided import UndecidedTraces
from mlflow_bridge._export.contract import Backoff, Outcome, Rejected, Retry, Sent
from mlflow_bridge._spans.otlp_json.decoder import spans_in
from mlflow_bridge._spans.otlp_json.encoder import SPAN_MARK

_logger = logging.getLogger(__name__)

_SCAN_SECONDS: Final = 30.0
"""How often to look for files that dead processes left."""

_BETWEEN_LIVE_SECONDS: Final = 1.0
"""How long live spans may delay an attempt at the spool."""

_SLICE_BYTES: Final = 8_388_608
_MAX_CRASHES: Final = 3
_MAX_TROUBLES: Final = 3
"""Tries at a file that cannot be read or removed."""


class _OpenFile:
    """An acquired file, and its spans that are not settled."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.pending: list[ReadableSpan] = []
        self.settled = 0
        """Number of spans that are settled, including those of lines that cannot be read."""
        self.has_unreadable = False
        """Whether a complete line cannot be read."""
        self._read: list[ReadableSpan] = []
        self._lines = segment.open_for_reading()

    def settle(self, spans: int) -> int:
        """Note that the next spans are settled.

        Returns:
            How many of them are settled for the first time: a delivery may begin again.
        """
        self.settled += spans
        fresh = min(max(self.settled - self.segment.noted, 0), spans)
        self.segment.noted += fresh
        return fresh

    def fill(self, limit: int, on_unreadable: Callable[[int], None]) -> bool:
        """Read the next pending spans, unless some are left. False at the end of the file."""
        if self.pending:
            return True
        size, spans = 0, self._read
        while not spans or (len(spans) < limit and size < _SLICE_BYTES):
            line = self._lines.readline()
            if not line:
                break
            size += len(line)
            try:
                spans += spans_in(line)
            except ValueError:
                _logger.debug("A line of %s is unreadable", self.segment.path, exc_info=True)
                on_unreadable(self.settle(max(line.count(SPAN_MARK), 1)))
                # A torn line holds nothing that an operator could look at.
                self.has_unreadable = self.has_unreadable or line.endswith(b"\n")
        self.pending, self._read = spans[:limit], spans[limit:]
        return bool(self.pending)

    def close(self) -> None:
        self._lines.close()


class Redelivery:
    """Delivery of the spool's files, one after the other, on the thread of the caller.

    In a program, only the sender's thread calls the methods, when it has time; it calls
    ``hold_back`` with its lock held. A file is removed when all of its spans are settled. If this
    process dies before, the next process begins the file again: MLflow stores a span once even if
    it is sent twice.
    """

    def __init__(
        self,
        spool: Spool,
        deliver: Callable[[Sequence[ReadableSpan]], Outcome],
        *,
        batch_size: int,
        backoff: Backoff,
        undecided: UndecidedTraces | None = None,
    ) -> None:
        """
        Args:
            spool: The spool.
            deliver: Makes one attempt at storing spans.
            batch_size: The most spans in one attempt.
            backoff: How long to wait between attempts.
            undecided: Decides on traces of undecided files; None if all traces are delivered.
        """
        self._spool = spool
        self._undecided = undecided
        self._deliver = deliver
        self._batch_size = batch_size
        self._backoff = backoff
        self._segment: Segment | None = None
        self._file: _OpenFile | None = None
        self._troubles: Counter[Path] = Counter()
        self._refused: set[Path] = set()
        """Files whose next spans were refused since a span was stored the last time."""
        self.has_stored = False
        """Whether the latest attempt has stored spans."""
        self._failures = 0
        self._obstacle = ""
        self._crashes = 0
        self._next_at = 0.0
        # A new process sends live spans first, before it looks for files of other processes.
        self._last_attempt = time.monotonic()
        self._made_at = time.time()

    def seconds_until_due(self) -> float:
        """Seconds that an idle sender may wait before the next attempt at the spool."""
        # The spans of this process need not wait for the next scan for files of other processes.
        if not self._failures and self._spool.has_own_backlog:
            return 0.0
        return max(self._next_at - time.monotonic(), 0.0)

    @property
    def obstacle(self) -> str:
        """Why the latest attempt failed; empty if it succeeded."""
        return self._obstacle if self._failures else ""

    def is_overdue(self) -> bool:
        """Whether the spool is to be delivered next although live spans wait."""
        waited = time.monotonic() - self._last_attempt >= _BETWEEN_LIVE_SECONDS
        return waited and self.seconds_until_due() <= 0.0

    def destination_answers(self) -> None:
        """End the wait after a failure, because live spans were just stored."""
        if self._failures:
            self._failures = 0
            self._next_at = 0.0
        self._refused.clear()

    def drain_own(self, go_on: Callable[[], bool]) -> None:
        """Deliver the spans that this process has spilled itself, until an attempt fails."""
        if self._file is not None and not self._file.segment.own:
            self.close()
        while go_on() and (self._file is not None or self._spool.has_own_backlog):
            if not self.deliver_next(begun_after=math.inf):
                return

    def drain_children(self, go_on: Callable[[], bool]) -> None:
        """Deliver files that dead processes began after this process, until an attempt fails.

        These are mostly files of its children, such as the workers of a pool. Older files may be
        many, and the exit of this process need not wait for them.
        """
        while not self._failures and go_on() and self.deliver_next(begun_after=self._made_at):
            pass

    def deliver_next(self, *, begun_after: float = 0.0) -> bool:
        """Make one attempt at the next spans. False without spans or without success.

        Args:
            begun_after: As in `Spool.acquire`.
        """
        self._last_attempt = time.monotonic()
        self.has_stored = False
        try:
            return self._deliver_next(begun_after)
        # BaseException: nothing that a file, a disk or a library raises may end the thread.
        except BaseException as error:
            _logger.debug("The spool could not be delivered", exc_info=True)
            self._note_trouble(format_exception_only(error)[-1].strip())
            return False

    def _note_trouble(self, reason: str) -> None:
        """Put the file off. After some tries, set it aside, because it holds up all others."""
        self._put_off(reason)
        self._spool.note_trouble(reason)
        segment, file = self._segment, self._file
        self._segment = self._file = None
        try:
            if file is not None:
                file.close()
        finally:
            if segment is not None:
                self._leave(segment, 0 if file is None else file.settled, reason)

    def _leave(self, segment: Segment, settled: int, reason: str) -> None:
        self._troubles[segment.path] += 1
        try:
            if self._troubles[segment.path] < _MAX_TROUBLES:
                self._spool.release(segment, done=False)
            else:
                settled = max(settled, segment.noted)
                lost = max(segment.count_spans() - settled, 0 if settled else 1)
                self._spool.set_aside(segment, lost=lost, reason=reason)
        except BaseException:
            _logger.debug("The file %s could not be released", segment.path, exc_info=True)

    def _deliver_next(self, begun_after: float) -> bool:
        file = self._file
        if file is None:
            segment = self._spool.acquire(begun_after=begun_after, but=self._refused)
            if segment is None:
                # Refused files are tried again, after a wait.
                if not self._refused:
                    self._next_at = time.monotonic() + _SCAN_SECONDS
                self._refused.clear()
                return False
            self._segment = segment
            file = self._file = _OpenFile(segment)
            if self._undecided is not None and segment.is_undecided:
                self._undecided.begin()
        if self._undecided is not None and self._undecided.look_further():
            return True
        unreadable = partial(self._spool.note_unreadable, file.segment)
        begun = bool(file.pending)
        if not file.fill(self._batch_size, unreadable):
            self._end(file)
            return True
        if not begun and file.segment.is_undecided:
            self._filter(file)
        return not file.pending or self._send(file)

    def _filter(self, file: _OpenFile) -> None:
        """Leave out spans of traces that are not wanted."""
        if self._undecided is None:
            return
        wanted = self._undecided.wanted_of(file.pending)
        filtered = len(file.pending) - len(wanted)
        self._spool.note_filtered(file.settle(filtered))
        file.pending = wanted

    def _send(self, file: _OpenFile) -> bool:
        try:
            outcome = self._deliver(file.pending)
        # BaseException: a SystemExit would end the sender's thread.
        except BaseException as error:
            _logger.debug("The exporter raised", exc_info=True)
            self._crashes += 1
            crashed = self._crashes >= _MAX_CRASHES
            outcome = Rejected(repr(error)) if crashed else Retry(repr(error))
        if isinstance(outcome, Retry):
            self._put_off(outcome.reason, outcome.after)
            if not outcome.refused:
                return False
            # A span of another file may be taken, which decides on these.
            self._refused.add(file.segment.path)
            self._file = self._segment = None
            file.close()
            self._spool.put_back(file.segment)
            return True
        if isinstance(outcome, Rejected) and not outcome.spans_to_blame:
            # Another process, with other settings, may deliver them.
            self._put_off(outcome.reason, self._backoff.longest)
            if not file.segment.own:
                self.close()
            return False
        self._settle(file, outcome)
        return True

    def _settle(self, file: _OpenFile, outcome: Sent | Rejected) -> None:
        given = file.settle(len(file.pending))
        stored = min(outcome.spans, given) if isinstance(outcome, Sent) else 0
        file.pending = []
        self._failures = self._crashes = 0
        self._next_at = 0.0
        if stored:
            self.has_stored = True
            self._refused.clear()
            self._spool.note_redelivery(file.segment, stored=stored)
        if given > stored:
            self._spool.note_refusal(file.segment, given - stored, outcome.reason)

    def _put_off(self, reason: str, after: float | None = None) -> None:
        self._failures += 1
        self._obstacle = reason
        self._next_at = time.monotonic() + self._backoff.delay(self._failures, after)
        _logger.debug("The delivery of the spool is postponed: %s", reason)

    def hold_back(self, until: float) -> None:
        """Make no attempt until this `time.monotonic`, because live spans were not taken."""
        # Without a failure of the spool's own, _next_at is only the time of the next scan.
        self._next_at = max(self._next_at, until) if self._failures else until
        self._failures += 1

    def _end(self, file: _OpenFile) -> None:
        file.close()
        if file.has_unreadable:
            self._file = self._segment = None
            self._spool.set_aside(file.segment, lost=0, reason="a line cannot be read")
            return
        self._spool.release(file.segment, done=True)
        self._file = self._segment = None

    def close(self) -> None:
        """Leave an unfinished file to the next process that looks for files."""
        file, self._file, self._segment = self._file, None, None
        if file is None:
            return
        try:
            file.close()
            self._spool.release(file.segment, done=False)
        except BaseException:  # As in deliver_next.
            _logger.debug("The file %s could not be released", file.segment.path, exc_info=True)
