# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""How a flush knows that its spans are settled."""

from __future__ import annotations

import threading


class FlushMark:
    """A place in the queue: reached when all that was queued before it is settled or spilled."""

    def __init__(self, lost_before: int) -> None:
        self.lost_before = lost_before
        self._reached = threading.Event()
        self._complete = False

    def reach(self, *, complete: bool) -> None:
        self._complete = complete
        self._reached.set()

    def wait(self, seconds: float) -> bool:
        """Whether the mark is reached in time and nothing on the way to it was lost."""
        return self._reached.wait(seconds) and self._complete
