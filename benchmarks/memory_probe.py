# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that outlives a call, measured in a separate process."""

from __future__ import annotations

import gc
import tracemalloc

from benchmarks.measured import MeasuredPrograms

_WARM_UP_CALLS = 50


class MemoryProbe(MeasuredPrograms):
    """A probe that measures with tracemalloc the memory that calls leave behind."""

    def left_behind(self, name: str, calls: int) -> dict[str, int]:
        """Count the bytes and blocks that calls leave behind, in allocations of all code.

        Compare them with the memory that the program alone leaves, such as its history. The code
        that allocated a block need not own it: the interpreter has lists of freed blocks, from
        which DSPy's objects get blocks that were ours.
        """
        self.warm_up(name, _WARM_UP_CALLS)
        tracemalloc.start()
        try:
            # The first calls under tracemalloc fill caches.
            self.warm_up(name, calls)
            before = self._snapshot()
            self.warm_up(name, calls)
            differences = self._snapshot().compare_to(before, "filename")
        finally:
            tracemalloc.stop()
        return {
            "bytes": sum(difference.size_diff for difference in differences),
            "blocks": sum(difference.count_diff for difference in differences),
        }

    @staticmethod
    def _snapshot() -> tracemalloc.Snapshot:
        gc.collect()
        return tracemalloc.take_snapshot()
