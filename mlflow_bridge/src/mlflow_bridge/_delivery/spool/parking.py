# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The spans of long traces on disk, until it is decided whether the traces are wanted."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.spool.writer import SegmentWriter
from mlflow_bridge._delivery.status import Counters
from mlflow_bridge._spans.otlp_json.decoder import spans_in

_logger = logging.getLogger(__name__)


class ParkedTraces:
    """The parking of a `TraceBuffer`: files of the spool, each with spans of one trace.

    If this process is killed, the next process decides on the traces, as on other undecided files.
    Used by one thread at a time.

    Args:
        spool: The spool.
        counters: Count the spans.
        delivers: Called when there are spans to deliver.
    """

    def __init__(self, spool: Spool, counters: Counters, delivers: Callable[[], object]) -> None:
        self._spool = spool
        self._counters = counters
        self._delivers = delivers
        self._writers: dict[int, SegmentWriter] = {}
        self._parked: Counter[int] = Counter()

    def park(self, trace_id: int, spans: Sequence[ReadableSpan]) -> bool:
        """Write these spans; False if the disk refuses. Some of them may be written then."""
        writer = self._writers.get(trace_id)
        if writer is None:
            writer = self._writers[trace_id] = self._spool.new_undecided_writer()
        if not self._spool.write_to(writer, spans):
            return False
        self._parked[trace_id] += len(spans)
        return True

    def spans_of(self, trace_id: int) -> list[ReadableSpan]:
        """The spans of a trace; without those of a line that cannot be read."""
        found: list[ReadableSpan] = []
        for segment in self._segments(trace_id):
            with segment.open_for_reading() as file:
                for line in file:
                    try:
                        found += spans_in(line)
                    except ValueError:
                        _logger.debug("A line of %s is unreadable", segment.path, exc_info=True)
        return found

    def deliver(self, trace_id: int) -> None:
        """Have the spans of a trace delivered like other spans of the spool.

        Raises:
            OSError: A file cannot be renamed. The next process decides on it.
        """
        segments = self._taken(trace_id, spilled=True)
        self._spool.deliver_undecided(segments)
        self._delivers()

    def discard(self, trace_id: int) -> None:
        """Remove the spans of a trace.

        Raises:
            OSError: A file can be neither removed nor emptied.
        """
        for segment in self._taken(trace_id, spilled=False):
            segment.delete()

    def close(self) -> None:
        """Leave the traces to the next process."""
        for trace_id, writer in list(self._writers.items()):
            self._taken(trace_id, spilled=True)
            writer.close()

    def forget_parents(self) -> None:
        """Release all files in a forked child: they belong to the parent."""
        writers, self._writers = self._writers, {}
        self._parked.clear()
        for writer in writers.values():
            writer.forget_parents()

    def _taken(self, trace_id: int, *, spilled: bool) -> list[Segment]:
        """Take out the files of a trace, whose spans count as spilled, or else as filtered."""
        segments, spans = self._segments(trace_id), self._parked.pop(trace_id, 0)
        self._writers.pop(trace_id, None)
        self._counters.add(parked=-spans, spilled=spans * spilled, filtered=spans * (not spilled))
        return segments

    def _segments(self, trace_id: int) -> list[Segment]:
        writer = self._writers.get(trace_id)
        return [] if writer is None else writer.segments()
