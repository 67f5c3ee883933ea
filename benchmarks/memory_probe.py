# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What outlives a call, in a process of its own."""

from __future__ import annotations

import gc
import tracemalloc

from benchmarks.measured import MeasuredPrograms

_WARM_UP_CALLS = 50


class MemoryProbe(MeasuredPrograms):
    """Looks with tracemalloc at what calls leave behind."""

    def left_behind(self, name: str, calls: int) -> dict[str, int]:
        """Bytes and blocks that so many calls leave, whoever allocated them.

        To be compared with what the program alone leaves, its history for one. Who allocated a
        block does not tell whose it is: the interpreter has lists of freed ones, from which DSPy's
        objects get what was ours.
        """
        self.warm_up(name, _WARM_UP_CALLS)
        tracemalloc.start()
        try:
            # The first calls under tracemalloc fill what is kept once.
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
