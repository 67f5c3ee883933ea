# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What outlives a call, in a process of its own."""

from __future__ import annotations

import gc
import os
import tracemalloc
from typing import Any

from benchmarks.measured import MeasuredPrograms

_OURS = ("opentelemetry", "mlflow_bridge", "wrapt")
_WARM_UP_CALLS = 50


class MemoryProbe(MeasuredPrograms):
    """Looks with tracemalloc at what calls leave behind."""

    def left_behind(self, name: str, calls: int) -> dict[str, Any]:
        """Bytes and blocks that calls leave, allocated by the files of ours and OpenTelemetry's.

        What DSPy keeps, such as its history, was allocated by DSPy.
        """
        self.warm_up(name, _WARM_UP_CALLS)
        tracemalloc.start()
        try:
            # The first calls under tracemalloc fill what is kept once.
            self.warm_up(name, _WARM_UP_CALLS)
            before = self._snapshot()
            self.warm_up(name, calls)
            after = self._snapshot()
        finally:
            tracemalloc.stop()
        found = [
            difference
            for difference in after.compare_to(before, "filename")
            if _is_ours(difference.traceback[0].filename) and difference.size_diff
        ]
        return {
            "bytes": sum(difference.size_diff for difference in found),
            "blocks": sum(difference.count_diff for difference in found),
        }

    @staticmethod
    def _snapshot() -> tracemalloc.Snapshot:
        gc.collect()
        return tracemalloc.take_snapshot()


def _is_ours(file: str) -> bool:
    return any(f"{os.sep}{name}{os.sep}" in file for name in _OURS)
