# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Write-ahead: every span is on disk before it is sent, and is removed when it is settled."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.writer import SegmentWriter, SpanKey, key_of


class Journal:
    """The spans of this process that wait in memory, on disk as well.

    A file is removed when the last of its spans is settled, or emptied if it still grows. So what
    a killed process leaves may hold spans that MLflow has; storing them again does no harm.
    """

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer = writer
        self._files: dict[SpanKey, Segment] = {}

    def write(self, span: ReadableSpan) -> None:
        """Keep a span that is about to be queued.

        Raises:
            OSError: It could not be written.
            ValueError, RecursionError: It cannot be.
        """
        with self._writer.lock:
            segment = self._writer.write((span,))
            segment.outstanding += 1
            self._files[key_of(span)] = segment

    def settled(self, spans: Iterable[ReadableSpan]) -> None:
        """Forget spans that are stored, refused, or kept elsewhere.

        Raises:
            OSError: A file could not be removed.
        """
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
            # Looked at again, for a span may have ended since.
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
        """Leave what is not settled to the next process."""
        self._writer.close()
        self._files = {}

    def forget_parents(self) -> None:
        """In a forked child: all of it is the parent's."""
        self._writer.forget_parents()
        self._files = {}
