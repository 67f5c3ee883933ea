# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Where spans go for which there is no room in memory, or no time left at exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.spool import Spool


class Overflow(Protocol):
    """A place that keeps spans which the queue cannot keep.

    A `Spool` is one, and does more: the processor delivers from it.

    ``accept`` is called by a thread of the processor for spans that ended while the queue was full,
    and by the thread that shuts the processor down; for a span that ends after that, by the thread
    that ends it. It must not wait for a network and must not call back into the processor.
    """

    def accept(self, spans: Sequence[ReadableSpan]) -> bool:
        """Take responsibility for all of these spans, or for none of them.

        Returns:
            True if they will be delivered from here on without the processor.
        """
        ...


def taken_by(overflow: Overflow, spans: Sequence[ReadableSpan]) -> int:
    """Have the overflow take these spans; how many of the first ones it took.

    Only of a spool may that be a part.
    """
    if isinstance(overflow, Spool):
        return overflow.take(spans)
    return len(spans) if overflow.accept(spans) else 0


def kept_by(overflow: Overflow | None, spans: Sequence[ReadableSpan], *, until: float) -> int:
    """Have the overflow take what is left at the end; how many it took, the first ones first.

    A spool stops at this `time.monotonic`.
    """
    if not spans or overflow is None:
        return 0
    if isinstance(overflow, Spool):
        return overflow.keep(spans, until=until)
    return len(spans) if overflow.accept(spans) else 0
