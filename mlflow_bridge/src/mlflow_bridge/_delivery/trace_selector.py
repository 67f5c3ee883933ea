# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which traces one processor delivers: its policy, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow_bridge._delivery.spool.parking import ParkedTraces
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._delivery.spool.undecided import UndecidedTraces
from mlflow_bridge._delivery.status import Counters
from mlflow_bridge._delivery.trace_filter import policy_of
from mlflow_bridge._spans.trace_buffer import BufferLimits, TraceBuffer
from mlflow_bridge.sampling.tail import TailSampling


class TraceSelector:
    """Makes the parts that decide which traces are delivered.

    Args:
        tail: Which traces are delivered of those that have ended; None delivers all.
        only_genai: Whether traces without a DSPy or GenAI span are left out.
        spool: Keeps spans of undecided traces; None if there is no spool.
    """

    def __init__(self, tail: TailSampling | None, *, only_genai: bool, spool: Spool | None) -> None:
        self._tail = tail
        self.only_genai = only_genai
        self._spool = spool
        self._parked: ParkedTraces | None = None

    @property
    def selects(self) -> bool:
        """Whether any trace may be left out."""
        return self.only_genai or self._tail is not None

    def buffer(
        self,
        max_spans: int,
        *,
        open_traces: Callable[[], set[int]],
        counters: Counters,
        delivers: Callable[[], object],
    ) -> TraceBuffer[Any] | None:
        """The buffer of undecided traces; None if all traces are delivered.

        Args:
            max_spans: The most spans that the buffer holds.
            open_traces: Returns the traces that have an open span in this process.
            counters: Count the spans on disk.
            delivers: Called when spans in the spool are to be delivered.
        """
        if not self.selects:
            return None
        if self._tail is not None and self._spool is not None:
            self._parked = ParkedTraces(self._spool, counters, delivers)
        return TraceBuffer(
            policy_of(self._tail, only_genai=self.only_genai),
            BufferLimits(spans=max_spans),
            open_traces=open_traces,
            parking=self._parked,
        )

    def undecided_traces(self, traces: TraceBuffer[Any] | None) -> UndecidedTraces | None:
        """The part that decides on spans on disk; None if all of them are delivered.

        Args:
            traces: The buffer of this process.
        """
        if self._spool is None or traces is None:
            return None
        self._spool.filter_by(traces.is_kept)
        policy = policy_of(self._tail, only_genai=self.only_genai)
        return UndecidedTraces(self._spool, policy, traces.is_kept)

    def close(self) -> None:
        """Leave what is undecided to the next process."""
        if self._parked is not None:
            self._parked.close()

    def forget_parents(self) -> None:
        """Release all files in a forked child: they belong to the parent."""
        if self._parked is not None:
            self._parked.forget_parents()
