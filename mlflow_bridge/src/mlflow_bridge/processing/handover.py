# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""From the base class of the processor to the sender, past the filter of traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from mlflow_bridge.processing.sender import Sender
from mlflow_bridge.processing.slots import Slots
from mlflow_bridge.processing.status import Counters
from mlflow_bridge.processing.trace_filter import TraceFilter
from mlflow_bridge.spool.spool import Spool


class Handover(SpanExporter):
    """What the base class takes for its exporter. ``export`` returns at once.

    The base class calls it by one thread at a time. It does not refer to the processor, which the
    thread of the base class would keep alive by it.
    """

    def __init__(self) -> None:
        self._filter: TraceFilter | None = None
        self.heir: Callable[[ReadableSpan], None] | None = None
        """Who gets, at the end, the spans that the filter holds, if the program goes on."""

    def begin(
        self,
        sender: Sender,
        slots: Slots,
        counters: Counters,
        spool: Spool | None,
        chosen: TraceFilter | None,
    ) -> None:
        """Hand over to these from now on: once in each process."""
        self._sender = sender
        self._slots = slots
        self._counters = counters
        self._spool = spool
        self._filter = chosen

    @property
    def held(self) -> int:
        """Spans that the filter holds back."""
        return 0 if self._filter is None else self._filter.held

    @property
    def expected(self) -> int:
        """Spans that have a slot and are not here yet."""
        # In this order: the filter gives spans to the sender, and gets none back.
        return self._sender.slots_elsewhere() - self.held

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Give the sender those spans that are wanted."""
        if self._filter is None:
            self._sender.put(spans)
            return SpanExportResult.SUCCESS
        wanted, dropped = self._filter.sort(spans)
        revived = [root for root in self._filter.take_revived() if self._slots.try_take()]
        self._counters.filtered(-len(revived))
        self._drop(dropped)
        self._sender.put([*revived, *wanted])
        return SpanExportResult.SUCCESS

    def end(self) -> None:
        """Drop what the filter holds, for nothing of DSPy or GenAI came with it, or pass it on."""
        if self._filter is None:
            return
        held = self._filter.close()
        if self.heir is None:
            self._drop(held)
            return
        for span in held:
            self.heir(span)
        self._forget(held)

    def _drop(self, spans: Sequence[ReadableSpan]) -> None:
        if spans:
            self._counters.filtered(len(spans))
            self._forget(spans)

    def _forget(self, spans: Sequence[ReadableSpan]) -> None:
        self._slots.give_back(len(spans))
        if self._spool is not None:
            self._spool.settled(spans)
