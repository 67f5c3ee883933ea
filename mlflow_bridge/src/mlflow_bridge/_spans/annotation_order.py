# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The order in which a process has annotated its traces, until MLflow has the annotations.

An annotation may be overtaken on its way: a later one takes the queue while it is on the disk, or
MLflow refuses it once. MLflow would then keep the older of two values of a tag, or would not find
the assessment to update. So an annotation is only stored as the first of its trace.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._process.forks import call_in_child

_MAX_TRACES: Final = 16_384


class AnnotationOrder:
    """The annotations of this process that are on their way, by trace. Thread-safe."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all annotations, in a forked child: the parent delivers them."""
        # A signal handler may annotate a trace while its thread holds the lock.
        self._lock = threading.RLock()
        self._waiting: OrderedDict[int, dict[int, None]] = OrderedDict()

    def has(self, trace_id: int) -> bool:
        """Whether an annotation of the trace is on its way."""
        return trace_id in self._waiting

    def add(self, span: ReadableSpan) -> None:
        """Add an annotation behind the others of its trace."""
        trace_id, span_id = _ids(span)
        with self._lock:
            self._waiting.setdefault(trace_id, {})[span_id] = None
            if len(self._waiting) > _MAX_TRACES:
                self._waiting.popitem(last=False)

    def is_first(self, span: ReadableSpan) -> bool:
        """Whether no earlier annotation of the trace is on its way."""
        trace_id, span_id = _ids(span)
        with self._lock:
            waiting = self._waiting.get(trace_id)
            # An annotation of another process, or of an older order, has no place here.
            return waiting is None or span_id not in waiting or next(iter(waiting)) == span_id

    def settled(self, span: ReadableSpan) -> None:
        """Remove an annotation that is stored, or given up."""
        trace_id, span_id = _ids(span)
        with self._lock:
            waiting = self._waiting.get(trace_id)
            if waiting is None:
                return
            waiting.pop(span_id, None)
            if not waiting:
                del self._waiting[trace_id]


def _ids(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    return (0, 0) if context is None else (context.trace_id, context.span_id)


annotation_order: Final = AnnotationOrder()


def _forget_in_child() -> None:
    annotation_order.clear()


# Not the bound method: it is held weakly, and would be freed when the interpreter shuts down.
call_in_child(_forget_in_child)
