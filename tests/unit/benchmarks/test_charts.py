# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Charts are small, and the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="comes with MLflow, or with the group bench")

from benchmarks.charts import draw

_PATH = {"cpu_ms_per_trace": 2.0, "server_ms_per_trace": 1.0}
RESULTS: dict[str, Any] = {
    "cost": {
        program: {
            "none": {"added_us": 0.0},
            "openinference": {"added_us": 470.0, "ratio": 5.7},
            "mlflow": {"added_us": 1000.0},
            "ours": {"added_us": 200.0, "ratio": 1.5},
        }
        for program in ("Predict", "RAG")
    },
    "delivery": {kind: {"bridge": _PATH, "mlflow": _PATH} for kind in ("sqlite", "server")},
    "memory": {
        name: {"points": [(1000, 80.0), (2000, 81.0)]} for name in ("steady", "full", "down")
    },
}


def test_the_same_figures_give_the_same_small_files(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()

    one, other = (draw(RESULTS, tmp_path / name) for name in ("one", "other"))

    assert [file.name for file in one] == [
        "performance-cost.svg",
        "performance-ratio.svg",
        "performance-delivery.svg",
        "performance-memory.svg",
    ]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    assert all(file.stat().st_size < 60_000 for file in one)


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    assert [file.name for file in draw({"memory": RESULTS["memory"]}, tmp_path)] == [
        "performance-memory.svg"
    ]
