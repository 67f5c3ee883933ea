# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans on disk on whose traces no filter of traces has decided."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._spans.local_root import is_local_root
from mlflow_bridge._spans.otlp_json.decoder import spans_in, wanted_traces_in
from mlflow_bridge._spans.trace_buffer import Decision, TracePolicy, trace_id_of

_logger = logging.getLogger(__name__)

_MOST_TRACES: Final = 262_144


class UndecidedTraces:
    """The traces of undecided files that are wanted.

    A process with write-ahead writes its spans before the filter of traces sees them, and a span
    that ends after the shutdown is never filtered. If the process is killed, the next process
    decides on each trace. A trace is wanted if the policy keeps it for its spans in undecided
    files, if a file has a note that it is wanted, or if this process wants it.

    Used by one thread.

    Args:
        spool: The spool whose files are read.
        policy: The same policy as that of the filter of traces.
        is_wanted: Whether this process is known to want a trace.
    """

    def __init__(
        self,
        spool: Spool,
        policy: TracePolicy[Any],
        is_wanted: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._spool = spool
        self._policy = policy
        self._is_wanted = is_wanted
        self._wanted: set[int] = set()
        self._facts: dict[int, Any] = {}
        """What the policy knows of the traces on disk."""
        self._concluded: dict[int, bool] = {}
        self._to_read: deque[Path] = deque()
        self._read: dict[Path, int] = {}
        """How far each file is read, in bytes."""

    def begin(self) -> None:
        """Begin to look into all undecided files; see `look_further`."""
        sizes = {entry.path: entry.bytes for entry in self._spool.undecided_files()}
        # A file of a living process is emptied when all its spans are settled.
        self._read = {
            path: read for path, read in self._read.items() if read <= sizes.get(path, -1)
        }
        self._to_read = deque(path for path in sizes if self._read.get(path, 0) < sizes[path])

    def look_further(self) -> bool:
        """Look into one file. False if all files have been read.

        One file a step, so that live spans need not wait for all of them.
        """
        if not self._to_read:
            return False
        path = self._to_read.popleft()
        try:
            with path.open("rb") as file:
                self._look_into(path, file)
        except OSError:  # Delivered by another process meanwhile.
            _logger.debug("The file %s could not be read", path, exc_info=True)
        return True

    def _look_into(self, path: Path, file: BinaryIO) -> None:
        file.seek(self._read.get(path, 0))
        # The last line of a living process may not be complete.
        while (line := file.readline()).endswith(b"\n"):
            self._wanted |= wanted_traces_in(line)
            try:
                spans = spans_in(line)
            except ValueError:  # Counted when the file is delivered.
                continue
            for span in spans:
                if self._decides_to_keep(span):
                    self._wanted.add(trace_id_of(span))
        self._read[path] = file.tell() - len(line)

    def _decides_to_keep(self, span: ReadableSpan) -> bool:
        trace_id = trace_id_of(span)
        facts = self._facts.get(trace_id)
        if facts is None and (facts := self._policy.new_facts()) is not None:
            self._facts[trace_id] = facts
        self._concluded.pop(trace_id, None)
        try:
            return self._policy.note(span, facts) is Decision.KEEP
        # Raised by an odd attribute. An unwanted trace is better than a lost one.
        except Exception:
            return True

    def wanted_of(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        """Those of the spans whose trace is wanted, after `look_further` has returned False."""
        # Memory is bounded, and an unwanted trace is better than a lost trace.
        if len(self._wanted) + len(self._facts) > _MOST_TRACES:
            self._facts.clear()
            return list(spans)
        wanted = [span for span in spans if self._is_known(trace_id_of(span))]
        for span in wanted:
            self._label(span)
        return wanted

    def _is_known(self, trace_id: int) -> bool:
        # First: the facts of a trace say why it is kept.
        is_kept = self._is_concluded_to_keep(trace_id)
        return is_kept or trace_id in self._wanted or self._is_wanted(trace_id)

    def _is_concluded_to_keep(self, trace_id: int) -> bool:
        facts = self._facts.get(trace_id)
        if facts is None:
            return False
        if trace_id not in self._concluded:
            decision = self._policy.conclude(facts, tuple, complete=True)
            self._concluded[trace_id] = decision is Decision.KEEP
        return self._concluded[trace_id]

    def _label(self, span: ReadableSpan) -> None:
        facts = self._facts.get(trace_id_of(span))
        if facts is not None and is_local_root(span):
            self._policy.label(span, facts)
