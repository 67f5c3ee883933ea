# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Where spans go for which there is no room in memory, or no time left at exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from opentelemetry.sdk.trace import ReadableSpan


class Overflow(Protocol):
    """A place that keeps spans which the queue cannot keep.

    A `mlflow_bridge.spool.spool.Spool` is one, and does more: the processor delivers from it.

    ``accept`` is called from any thread of the program when a span ends while the queue is full,
    also from one that runs an event loop, and from the thread that shuts the processor down. It
    must be quick, must not wait for a network and must not call back into the processor.
    """

    def accept(self, spans: Sequence[ReadableSpan]) -> bool:
        """Take responsibility for all of these spans, or for none of them.

        Returns:
            True if they will be delivered from here on without the processor.
        """
        ...
