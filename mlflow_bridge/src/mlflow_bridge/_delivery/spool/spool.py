# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The spool of one destination, as the processor uses it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.directory import (
    Entry,
    SpoolDirectory,
    SpoolFullError,
    default_directory,
    destination_key,
    spool_problem,
)
from mlflow_bridge._delivery.spool.segment import Segment, locks_are_supported
from mlflow_bridge._delivery.spool.writer import Journal, SegmentWriter
from mlflow_bridge._delivery.status import SpoolStatus
from mlflow_bridge._process.interruption import belongs_to_program
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.trace_buffer import trace_id_of

if TYPE_CHECKING:
    from mlflow_bridge._config.settings import MLflowDSPyConfig

_logger = logging.getLogger(__name__)

_SEGMENT_BYTES: Final = 4_194_304
_LINE_SPANS: Final = 512
# A full or read-only disk must not be tried again at every span.
_PAUSE_SECONDS: Final = 1.0


def directory_for(config: MLflowDSPyConfig) -> Path:
    """The directory of the spool for this destination.

    Raises:
        RuntimeError: There is no home directory.
    """
    base = config.spool_directory or default_directory()
    return base.expanduser().absolute() / destination_key(_destination_of(config))


def _destination_of(config: MLflowDSPyConfig) -> str:
    if config.workspace is None:
        return config.destination_description
    return f"{config.destination_description}, workspace {config.workspace!r}"


class Spool:
    """A spool of spans: keeps them in files, and gives the files out for delivery.

    ``accept`` and ``write_ahead`` are called by any thread of the program, and write to the disk
    there. The written spans survive the end of the process, however it ends. With ``fsync="batch"``
    they also survive a crash of the machine, except for up to 512 spans that ended one by one. The
    methods for delivery are called by the sender's thread only. The methods that write raise no
    OSError: if the disk refuses, they return False or a smaller number, and each kind of error is
    logged once per minute.

    No file and no directory is made before there is a span to keep.
    """

    def __init__(
        self,
        path: Path,
        *,
        destination: str = "",
        max_bytes: int = 536_870_912,
        max_age_seconds: float = 604_800.0,
        fsync: Literal["never", "batch"] = "never",
        write_ahead: bool = False,
        segment_bytes: int = _SEGMENT_BYTES,
    ) -> None:
        """
        Args:
            path: The directory; other processes with the same destination may share it.
            destination: Human-readable destination; written to ``destination.txt``.
            max_bytes: The most bytes that all files take. At this limit, the oldest file that no
                other living process owns is dropped. If there is no such file, ``accept`` refuses.
            max_age_seconds: Files whose newest span is older are dropped.
            fsync: Whether each batch is flushed to the disk.
            write_ahead: Whether every span is written to the disk before it is sent.
            segment_bytes: The approximate size of one file.
        """
        self._directory = SpoolDirectory(
            path,
            destination=destination,
            max_bytes=max_bytes,
            max_age_seconds=max_age_seconds,
            on_drop=self._note_drop,
        )
        # The oldest file is dropped at the limit, so one file must not be the whole spool.
        self._segment_bytes = min(segment_bytes, max(max_bytes // 4, 1))
        self._sync = fsync == "batch"
        self._spilled = self._new_writer()
        self._undecided = self._new_writer(undecided=True)
        self._is_wanted: Callable[[int], bool] | None = None
        self._journal = self._new_journal() if write_ahead else None
        self._copies = Journal(self._new_writer(may_drop=False))
        """Copies of spans that have passed the filter and wait for too long."""
        self._begin()

    def filter_by(self, is_wanted: Callable[[int], bool]) -> None:
        """Mark files whose spans are written before the filter of traces has decided on them.

        To be called before the first span is written.

        Args:
            is_wanted: Whether a trace is known to be wanted. Any thread may call it.
        """
        self._is_wanted = is_wanted
        if self._journal is not None:
            self._journal = self._new_journal()

    def _new_journal(self) -> Journal:
        return Journal(self._new_writer(undecided=self._is_wanted is not None))

    def _new_writer(self, *, undecided: bool = False, may_drop: bool = True) -> SegmentWriter:
        return SegmentWriter(
            self._directory,
            segment_bytes=self._segment_bytes,
            sync=self._sync,
            droppable=self._give_up if may_drop else None,
            undecided=undecided,
        )

    def new_undecided_writer(self) -> SegmentWriter:
        """A writer for spans on whose traces no filter of traces has decided."""
        return self._new_writer(undecided=True)

    def write_to(self, writer: SegmentWriter, spans: Sequence[ReadableSpan]) -> bool:
        """Write all of these spans; False if the disk refuses."""
        written = 0
        while written < len(spans):
            rest = spans[written : written + _LINE_SPANS]
            count = self._write(rest, lambda some: writer.write_first(some)[1])
            if not count:
                return False
            written += count
        return True

    def deliver_undecided(self, segments: Sequence[Segment]) -> None:
        """Deliver files of this process whose traces are wanted after all.

        Raises:
            OSError: A file cannot be renamed.
        """
        for segment in segments:
            segment.become_decided()
            self._spilled.full.append(segment)

    @classmethod
    def from_config(cls, config: MLflowDSPyConfig) -> Spool | None:
        """The spool for this destination; None if it is disabled or this system cannot have one."""
        if not config.spool:
            return None
        try:
            path = directory_for(config)
        except RuntimeError as error:  # There is no home directory.
            _logger.warning("Spans are kept in memory only: %s (setting: spool_directory).", error)
            return None
        if not locks_are_supported():
            _logger.info("Spans are kept in memory only: no file locks on this platform.")
            return None
        problem = spool_problem(path)
        if problem is not None:
            _logger.warning(
                "Spans are kept in memory only, and are lost if MLflow does not take them before "
                "this process ends: %s.",
                problem,
            )
            return None
        return cls(
            path,
            destination=_destination_of(config),
            max_bytes=config.spool_max_bytes,
            max_age_seconds=config.spool_max_age_seconds,
            fsync=config.spool_fsync,
            write_ahead=config.write_ahead,
        )

    def _begin(self) -> None:
        """Make the parts that belong to one process: counters and their lock, log limits."""
        self._log = RateLimitedLogger(_logger)
        self._counts = SpoolStatus()
        self._counts_lock = threading.RLock()
        self._refuses_until = 0.0
        self._acquired: Segment | None = None

    @property
    def path(self) -> Path:
        """The directory of the files."""
        return self._directory.path

    def has_written_ahead(self, span: ReadableSpan) -> bool:
        """Whether a copy of the span, which waits in memory, is on disk."""
        return self._copies.has(span) or (self._journal is not None and self._journal.has(span))

    @property
    def writes_ahead(self) -> bool:
        """Whether every span is to be on disk before it is sent."""
        return self._journal is not None

    def accept(self, spans: Sequence[ReadableSpan]) -> bool:
        """Keep all of these spans, or none of them.

        Returns:
            True if the spool has the spans, so that the processor need not deliver them.
        """
        absent = self._not_written_ahead(spans)
        if not absent or self._are_wanted(absent):
            return not absent or self._written(absent)
        return self._write(absent, partial(self._write_all, self._undecided)) == len(absent)

    def _are_wanted(self, spans: Sequence[ReadableSpan]) -> bool:
        """Whether spans that the filter of traces has not seen are to be delivered in any case."""
        is_wanted = self._is_wanted
        return is_wanted is None or any(is_wanted(trace_id_of(span)) for span in spans)

    def keep(self, spans: Sequence[ReadableSpan], *, until: float) -> int:
        """Keep as many of these spans as there is time for, in order.

        Args:
            spans: The spans. Spans of which a copy is on disk take no time.
            until: The `time.monotonic` after which no further line is written.

        Returns:
            The number of spans on disk.
        """
        absent = self._not_written_ahead(spans)
        return len(spans) - len(absent) + self.take(absent, until=until)

    def _not_written_ahead(self, spans: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
        return [span for span in spans if not self.has_written_ahead(span)]

    def take(self, spans: Sequence[ReadableSpan], *, until: float = math.inf) -> int:
        """Write these spans until the disk refuses, in lines of some hundred spans.

        Returns:
            The number of spans written, from the first span on.
        """
        taken = 0
        while taken < len(spans) and time.monotonic() <= until:
            count = self._write(spans[taken : taken + _LINE_SPANS], self._write_first)
            taken += count
            if not count:
                break
        self.settled(spans[:taken])
        return taken

    def spill(self, spans: Sequence[ReadableSpan]) -> bool:
        """Write spans that wait in memory, and are `settled` next; False if the disk refuses."""
        return self._written(spans)

    def _written(self, spans: Sequence[ReadableSpan]) -> bool:
        return self._write(spans, partial(self._write_all, self._spilled)) == len(spans)

    def _write_all(self, writer: SegmentWriter, spans: Sequence[ReadableSpan]) -> int:
        writer.write(spans)
        return len(spans)

    def _write_first(self, spans: Sequence[ReadableSpan]) -> int:
        return self._spilled.write_first(spans)[1]

    def _write(
        self, spans: Sequence[ReadableSpan], write: Callable[[Sequence[ReadableSpan]], int]
    ) -> int:
        """Write spans; returns how many, from the first on, are written or can never be."""
        if time.monotonic() < self._refuses_until:
            return 0
        try:
            return write(spans)
        # Any exception: a value may run code of the program, and the sender's thread calls this.
        except Exception as error:
            if belongs_to_program(error):
                raise
            if isinstance(error, OSError):
                self._note_failure(error)
                return 0
            return self._write_without_culprit(spans, write, error)

    def _write_without_culprit(
        self,
        spans: Sequence[ReadableSpan],
        write: Callable[[Sequence[ReadableSpan]], int],
        error: Exception,
    ) -> int:
        """Write these spans. Drop a span that can never be written and would block the others."""
        if len(spans) > 1:
            middle = len(spans) // 2
            written = self._write(spans[:middle], write)
            if written < middle:
                return written
            return middle + self._write(spans[middle:], write)
        self._count(dropped=1, dropped_own=1)
        self._log.warning(
            "impossible",
            "Span %.120r cannot be kept on disk, and is lost: %s",
            spans[0].name,
            error,
        )
        return 1

    def begin_write_ahead(self) -> None:
        """Write every span to the disk before it is sent, from now on in this process."""
        if self._journal is None:
            self._journal = self._new_journal()

    def write_ahead(self, span: ReadableSpan) -> None:
        """Write a span to the disk before it is queued, if write-ahead is on.

        Raises only what a signal handler has raised.
        """
        if self._journal is None:
            return
        try:
            if time.monotonic() >= self._refuses_until:
                self._journal.write(span)
                return
        except Exception as error:
            if belongs_to_program(error):
                raise
            self._note_failure(error)
        self._count(not_written_ahead=1)

    def copy_first(self, spans: Sequence[ReadableSpan]) -> int:
        """Write the first of these spans to the disk, which go on waiting in memory.

        `settled` removes the copies. No other file is dropped to make room for them.

        Args:
            spans: Spans that have passed the filter of traces, and have no copy.

        Returns:
            The number of spans that need no further try: 0 if the disk refuses.
        """
        if not spans or time.monotonic() < self._refuses_until:
            return 0
        try:
            return self._copies.write_first(spans[:_LINE_SPANS])
        except SpoolFullError:
            return 0
        except OSError as error:
            self._note_failure(error)
            return 0
        # Any exception: a value may run code of the program.
        except Exception:
            _logger.debug("Spans could not be copied to the disk", exc_info=True)
            # A span that can never be written is reported when it is spilled.
            return 1 if len(spans) == 1 else self.copy_first(spans[: len(spans) // 2])

    def note_wanted(self, spans: Sequence[ReadableSpan]) -> None:
        """Note beside the copies of ``write_ahead`` that their traces are wanted. Never raises."""
        if self._journal is None or self._is_wanted is None:
            return
        try:
            self._journal.note_wanted(spans)
        except Exception as error:
            self._note_failure(error)

    def settled(self, spans: Sequence[ReadableSpan]) -> None:
        """Remove the copies of spans that are settled. Never raises."""
        for journal in (self._copies, self._journal):
            if journal is None:
                continue
            try:
                journal.settled(spans)
            except Exception as error:
                self._note_failure(error)

    def _note_failure(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self._refuses_until = time.monotonic() + _PAUSE_SECONDS
        self._log.warning(
            f"unwritable {type(error).__name__}",
            "The spool %s cannot keep spans: %s (setting: spool_directory).",
            self.path,
            error,
        )

    @property
    def has_own_backlog(self) -> bool:
        """Whether spans that this process spilled wait for delivery."""
        return any(segment.size for segment in self._spilled.segments())

    def acquire(self, *, begun_after: float = 0.0, but: Set[Path] = frozenset()) -> Segment | None:
        """Acquire the next file to deliver: the oldest of this process, else of a dead process.

        Args:
            begun_after: Leave out older files of dead processes; in seconds since the epoch.
                Infinity leaves out all of them.
            but: Files that are left out.

        Raises:
            OSError: The directory cannot be used.
        """
        if not self._spilled.full:
            self._spilled.seal()
        segment = self._oldest_own(but)
        if segment is None and begun_after < math.inf:
            segment = self._directory.adopt_oldest(begun_after, but=but)
        self._acquired = segment
        return segment

    def _oldest_own(self, but: Set[Path]) -> Segment | None:
        for segment in tuple(self._spilled.full):
            if segment.path in but:
                continue
            try:
                self._spilled.full.remove(segment)
            except ValueError:  # Another thread has dropped the file in this moment.
                continue
            if not self._directory.drop_if_expired(segment):
                return segment
        return None

    def put_back(self, segment: Segment) -> None:
        """End the delivery of a file for now. It stays a file of this process, if it is one."""
        if not segment.own:
            self.release(segment, done=False)
            return
        self._acquired = None
        self._spilled.full.append(segment)

    def release(self, segment: Segment, *, done: bool) -> None:
        """End the delivery of a file.

        Args:
            segment: The file.
            done: Whether all its spans are settled. If not, the next process begins the file again.

        Raises:
            OSError: The file cannot be removed.
        """
        self._acquired = None
        if done:
            segment.delete()
            return
        if segment.is_removed:
            self._directory.restore(segment, self._give_up)
        segment.close()

    def set_aside(self, segment: Segment, *, lost: int, reason: str) -> None:
        """Set aside a file that cannot be delivered, so that it holds up no others.

        Args:
            segment: The file.
            lost: Number of its spans that are not settled.
            reason: What keeps the file from being delivered.

        Raises:
            OSError: The file cannot be renamed. This process leaves it alone all the same.
        """
        self._acquired = None
        self.note_redelivery(segment, lost=lost)
        self._log.warning(
            "aside",
            "The spool file %s cannot be delivered, and is set aside with the name *.unreadable: "
            "%s. Its spans are counted as spool_dropped.",
            segment.path,
            reason,
        )
        self._directory.set_aside(segment)

    def note_trouble(self, reason: str) -> None:
        """Log that the spool cannot be delivered now."""
        self._log.warning(
            "trouble",
            "The spool %s could not be delivered: %s. It is tried again (setting: "
            "spool_directory).",
            self.path,
            reason,
        )

    def note_redelivery(self, segment: Segment, *, stored: int = 0, lost: int = 0) -> None:
        """Count spans of an acquired file that are settled."""
        own = segment.own or self._directory.has_made(segment.path)
        self._count(stored, lost, stored_own=stored * own, dropped_own=lost * own)

    def note_filtered(self, spans: int) -> None:
        """Count spans of undecided files whose traces have no wanted span."""
        self._count(filtered=spans)

    def undecided_files(self) -> list[Entry]:
        """The files of all processes with spans that no filter of traces has decided on."""
        return [entry for entry in self._directory.entries() if entry.is_undecided]

    def note_unreadable(self, segment: Segment, spans: int) -> None:
        """Count the spans of a line that is torn or not OTLP."""
        self.note_redelivery(segment, lost=spans)
        self._log.warning(
            "unreadable",
            "A line of the spool file %s is torn or unreadable, and is left out.",
            segment.path,
        )

    def note_refusal(self, segment: Segment, spans: int, reason: str) -> None:
        """Count spans that MLflow has refused for good."""
        self.note_redelivery(segment, lost=spans)
        self._log.warning(
            "refused", "%d spans from the spool were refused for good: %s.", spans, reason
        )

    def _note_drop(self, why: str, segment: Segment) -> None:
        spans = max(segment.count_spans() - segment.noted, 0)
        self.note_redelivery(segment, lost=spans)
        self._log.warning(
            why, "The oldest %d spans of the spool %s are lost: %s.", spans, self.path, why
        )

    def _give_up(self, path: Path) -> Segment | None:
        """Give up a full file of this process to be dropped, unless it is being delivered."""
        for segment in tuple(self._spilled.full):
            if segment.path == path:
                try:
                    self._spilled.full.remove(segment)
                except ValueError:  # The sender has acquired the file in this moment.
                    return None
                return segment
        return None

    def _count(
        self,
        redelivered: int = 0,
        dropped: int = 0,
        *,
        stored_own: int = 0,
        dropped_own: int = 0,
        not_written_ahead: int = 0,
        filtered: int = 0,
    ) -> None:
        with self._counts_lock:
            before = self._counts
            self._counts = SpoolStatus(
                redelivered=before.redelivered + redelivered,
                dropped=before.dropped + dropped,
                stored_own=before.stored_own + stored_own,
                dropped_own=before.dropped_own + dropped_own,
                not_written_ahead=before.not_written_ahead + not_written_ahead,
                filtered=before.filtered + filtered,
            )

    def status(self) -> SpoolStatus:
        """The counters now. Reads the directory."""
        entries = [entry for entry in self._directory.entries() if entry.bytes]
        begun = min((entry.begun for entry in entries), default=None)
        return replace(
            self._counts,
            bytes=sum(entry.bytes for entry in entries),
            oldest_seconds=0.0 if begun is None else max(time.time() - begun, 0.0),
        )

    def close(self) -> None:
        """Leave all files to the next process. May be used again, and repeated."""
        try:
            self._spilled.close()
            self._undecided.close()
            self._copies.close()
            if self._journal is not None:
                self._journal.close()
        except OSError as error:
            self._note_failure(error)

    def after_fork(self) -> None:
        """Release all files in a forked child: they belong to the parent."""
        self._spilled.forget_parents()
        self._directory.after_fork()
        self._undecided.forget_parents()
        self._copies.forget_parents()
        if self._journal is not None:
            self._journal.forget_parents()
        if self._acquired is not None:
            self._acquired.close()
        self._begin()
