# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The writer of the spool: appends lines to one file after the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.directory import SpoolDirectory
from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._spans.lent_values import with_lent_values
from mlflow_bridge._spans.otlp_json.encoder import first_line, wanted_traces_line

_SYNC_SPANS: Final = 512
_LINE_BYTES: Final = 1_048_576
"""Limit of a line in memory: the writer and the reader hold a whole line, and hundreds of spans may
contain images."""
_FEW_SPANS: Final = 32

SpanKey = tuple[int, int]


def key_of(span: ReadableSpan) -> SpanKey:
    context = span.context
    return (0, id(span)) if context is None else (context.trace_id, context.span_id)


class SegmentWriter:
    """The files that this process writes: one growing file, and full files.

    The lock is reentrant, since a span may end inside a garbage collection or a signal handler that
    interrupted this code in the same thread. Such a span is written to a separate file, because the
    current file may be in the middle of a change.
    """

    def __init__(
        self,
        directory: SpoolDirectory,
        *,
        segment_bytes: int,
        sync: bool,
        droppable: Callable[[Path], Segment | None] | None,
        undecided: bool = False,
    ) -> None:
        """
        Args:
            directory: The directory.
            segment_bytes: The approximate size of one file.
            sync: Whether each batch is flushed to the disk.
            droppable: As in `SpoolDirectory.create`.
            undecided: As in `Segment.create`.
        """
        self._directory = directory
        self._undecided = undecided
        self._segment_bytes = segment_bytes
        self._line_bytes = min(_LINE_BYTES, segment_bytes)
        self._sync = sync
        self._droppable = droppable
        self.lock = threading.RLock()
        self.busy = False
        """Whether the thread that holds the lock is changing something."""
        self._current: Segment | None = None
        self._unsynced = 0
        self.full: deque[Segment] = deque()

    def write(self, spans: Sequence[ReadableSpan]) -> Segment:
        """Append these spans as one line of any length; see `write_first`.

        Returns:
            The file that contains the spans now.
        """
        return self._write(*first_line(with_lent_values(spans)))

    def write_first(self, spans: Sequence[ReadableSpan]) -> tuple[Segment, int]:
        """Append the first of these spans as one line of about a MiB at most.

        Returns:
            The file that contains these spans now, and their number: at least one.

        Raises:
            OSError: The spans could not be written; no part of the line was.
            ValueError, RecursionError: A span can never be written, or the line is too large.
        """
        line, count = first_line(with_lent_values(spans), self._line_bytes)
        try:
            return self._write(line, count), count
        except OSError:
            if count <= _FEW_SPANS:
                raise
            # A disk that is nearly full may have room for some of the spans.
            return self.write_first(spans[: count // 4])

    def _write(self, line: bytes, spans: int) -> Segment:
        with self.lock:
            if self.busy:
                return self._write_apart(line, spans)
            self.busy = True
            try:
                return self._append(line, spans)
            finally:
                self.busy = False

    def _append(self, line: bytes, spans: int) -> Segment:
        segment = self._current
        if segment is not None and self._is_full(segment, len(line)):
            self._seal(segment)
            segment = None
        if segment is None:
            needed = max(self._segment_bytes, len(line))
            segment = self._current = self._create(needed)
        segment.append(line, spans)
        self._unsynced += spans
        if self._sync and (self._unsynced >= _SYNC_SPANS or spans > 1):
            segment.sync()
            self._unsynced = 0
        return segment

    def _is_full(self, segment: Segment, more: int) -> bool:
        # No later process would find spans that are written to a removed file.
        if segment.torn or segment.is_removed:
            return True
        return 0 < segment.size > self._segment_bytes - more

    def _write_apart(self, line: bytes, spans: int) -> Segment:
        segment = self._create(len(line))
        segment.append(line, spans)
        self.full.append(segment)
        return segment

    def _create(self, needed: int) -> Segment:
        return self._directory.create(needed, self._droppable, undecided=self._undecided)

    def _seal(self, segment: Segment) -> None:
        if self._sync and self._unsynced:
            segment.sync()
            self._unsynced = 0
        self.full.append(segment)
        self._current = None

    def seal(self) -> None:
        """End the growing file, unless it is empty."""
        with self.lock:
            if self._current is not None and self._current.size and not self.busy:
                self._seal(self._current)

    def is_current(self, segment: Segment) -> bool:
        return segment is self._current

    def segments(self) -> list[Segment]:
        return [*self.full, *([self._current] if self._current is not None else [])]

    def close(self) -> None:
        """Release all files, and remove empty files. The writer may be used again."""
        with self.lock:
            segments = self.segments()
            if self._sync and self._unsynced and self._current is not None:
                self._current.sync()
            self.full.clear()
            self._current = None
            self._unsynced = 0
        for segment in segments:
            if segment.size:
                if segment.is_removed:
                    self._directory.restore(segment, self._droppable)
                segment.close()
            else:
                segment.delete()

    def forget_parents(self) -> None:
        """Release all files in a forked child: they belong to the parent."""
        for segment in self.segments():
            segment.close()
        self.full = deque()
        self._current = None
        self._unsynced = 0
        self.lock = threading.RLock()
        self.busy = False


class Journal:
    """Copies on disk of spans of this process that wait in memory.

    A file is removed when the last of its spans is settled, or emptied if it still grows. So the
    files of a killed process may contain spans that MLflow has; storing them again does no harm.
    """

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer = writer
        self._files: dict[SpanKey, Segment] = {}

    def write(self, span: ReadableSpan) -> None:
        """Keep a span that is about to be queued.

        Raises:
            OSError: The span could not be written.
            ValueError, RecursionError: The span can never be written.
        """
        with self._writer.lock:
            segment = self._writer.write((span,))
            segment.outstanding += 1
            self._files[key_of(span)] = segment

    def write_first(self, spans: Sequence[ReadableSpan]) -> int:
        """Keep the first of these spans, which wait already; see `SegmentWriter.write_first`."""
        with self._writer.lock:
            segment, count = self._writer.write_first(spans)
            segment.outstanding += count
            self._files.update(dict.fromkeys(map(key_of, spans[:count]), segment))
            return count

    def note_wanted(self, spans: Iterable[ReadableSpan]) -> None:
        """Note that the traces of these spans are wanted, in the files that contain the spans.

        Raises:
            OSError: A note could not be written.
        """
        writer = self._writer
        with writer.lock:
            interrupted, writer.busy = writer.busy, True
            try:
                for segment, traces in self._unnoted(spans).items():
                    segment.append(wanted_traces_line(traces), 0)
                    segment.wanted |= traces
            finally:
                writer.busy = interrupted

    def _unnoted(self, spans: Iterable[ReadableSpan]) -> dict[Segment, set[int]]:
        found: dict[Segment, set[int]] = {}
        for key in map(key_of, spans):
            segment = self._files.get(key)
            if segment is not None and key[0] not in segment.wanted and not segment.torn:
                found.setdefault(segment, set()).add(key[0])
        return found

    def settled(self, spans: Iterable[ReadableSpan]) -> None:
        """Forget spans that are stored, refused, or kept elsewhere.

        Raises:
            OSError: A file could not be removed.
        """
        if not self._files:
            return
        with self._writer.lock:
            for span in spans:
                segment = self._files.pop(key_of(span), None)
                if segment is not None:
                    segment.outstanding -= 1
                    if not segment.outstanding:
                        self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        writer = self._writer
        interrupted, writer.busy = writer.busy, True
        try:
            # Checked again, because a span may have ended since.
            if segment.outstanding:
                return
            if writer.is_current(segment):
                segment.empty()
            else:
                writer.full.remove(segment)
                segment.delete()
        finally:
            writer.busy = interrupted

    def has(self, span: ReadableSpan) -> bool:
        return key_of(span) in self._files

    def close(self) -> None:
        """Leave spans that are not settled to the next process."""
        self._writer.close()
        self._files = {}

    def forget_parents(self) -> None:
        """Release all files in a forked child: they belong to the parent."""
        self._writer.forget_parents()
        self._files = {}
