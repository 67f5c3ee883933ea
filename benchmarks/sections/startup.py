# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The start-up cost for a program under opentelemetry-instrument that never imports dspy."""

from __future__ import annotations

import os
import site
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import rounds
from benchmarks.scale import Scale
from benchmarks.tables import Table

NAME = "startup"
_OURS = ("opentelemetry_instrumentation_dspy-", "mlflow_bridge-")
_PEERS = ("openinference_instrumentation_dspy-", "opentelemetry_instrumentation_genai_dspy-")
_LAUNCHER = (
    "import sys; sys.argv[0] = 'opentelemetry-instrument';"
    "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
)
# Shut down first: no exporter may begin an import at the exit.
_PROGRAM = (
    "import resource, sys; from opentelemetry import trace;"
    "getattr(trace.get_tracer_provider(), 'shutdown', lambda: None)();"
    "assert not {'dspy', 'mlflow', 'sqlalchemy'} & set(sys.modules);"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


@dataclass(frozen=True)
class _Variant:
    label: str
    has_ours: bool
    exporter: str = "none"


_VARIANTS: Final = {
    "without": _Variant("not installed", has_ours=False),
    "with": _Variant("both packages installed", has_ours=True),
    "console": _Variant("not installed, exporter `console` named", False, "console"),
    "named": _Variant("both packages installed, exporter `mlflow` named", True, "mlflow"),
}


def run(scale: Scale) -> dict[str, Any]:
    """Time interleaved starts with and without the two distributions; always without the peers."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        pythons = {
            False: _environment(Path(directory) / "without", hidden=(*_OURS, *_PEERS)),
            True: _environment(Path(directory) / "with", hidden=_PEERS),
        }
        store = Path(directory) / "mlflow.db"
        taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in _VARIANTS}
        for variant in _VARIANTS.values():
            _start(pythons[variant.has_ours], variant.exporter, store)
        for _, order in rounds.in_turns(list(_VARIANTS), scale.startup_rounds):
            for name in order:
                variant = _VARIANTS[name]
                taken[name].append(_start(pythons[variant.has_ours], variant.exporter, store))
        if store.exists():
            raise AssertionError("a process without a trace has made a store")
    return {name: _summary(samples) for name, samples in taken.items()}


def _summary(samples: list[tuple[float, float, float]]) -> dict[str, Any]:
    walls, cpus, sizes = zip(*samples, strict=True)
    return {
        "wall_ms": statistics.median(walls),
        "wall_quartiles_ms": rounds.quartiles(walls),
        "cpu_ms": statistics.median(cpus),
        "cpu_quartiles_ms": rounds.quartiles(cpus),
        "rss_mib": statistics.median(sizes),
        "rss_quartiles_mib": rounds.quartiles(sizes),
    }


def _environment(directory: Path, *, hidden: tuple[str, ...]) -> Path:
    """Make an environment with links to all installed packages but these. Returns its Python.

    A distribution and its entry points are found by its dist-info directory.
    """
    venv.create(directory, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    target = directory / "lib" / version / "site-packages"
    for entry in _installed():
        if not (target / entry.name).exists() and not entry.name.startswith(hidden):
            (target / entry.name).symlink_to(entry)
    return directory / "bin" / "python"


def _installed() -> Iterator[Path]:
    for directory in site.getsitepackages():
        yield from Path(directory).iterdir()


def _start(python: Path, exporter: str, store: Path) -> tuple[float, float, float]:
    """Start it with this exporter named; the exporter `mlflow` has a SQL store.

    Returns wall and CPU time in milliseconds, and the largest resident size in MiB.
    """
    command = [str(python), "-c", _LAUNCHER, str(python), "-c", _PROGRAM]
    cleared = ("OTEL_", "MLFLOW_", "PYTHON")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(cleared)}
    settings = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("METRICS", "LOGS")}
    settings |= {"OTEL_TRACES_EXPORTER": exporter, "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        command, env=inherited | settings, capture_output=True, text=True, check=True
    )
    wall, after = time.perf_counter() - start, os.times()
    cpu = sum(after[2:4]) - sum(before[2:4])
    return wall * 1000, cpu * 1000, int(done.stdout) / 1024


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row for each way to start the program."""
    rows = []
    for name, variant in _VARIANTS.items():
        figures = data[name]
        spreads = (_spread(figures, what) for what in ("wall_ms", "cpu_ms", "rss_mib"))
        rows.append([variant.label, *spreads])
    return [
        Table(
            "startup",
            "opentelemetry-instrument on a program that never imports dspy",
            ["", "wall, ms", "CPU, ms", "resident, MiB"],
            rows,
            "Median and quartiles of interleaved starts.",
        )
    ]


def _spread(figures: Mapping[str, Any], what: str) -> str:
    name, unit = what.rsplit("_", 1)
    low, high = figures[f"{name}_quartiles_{unit}"]
    return f"{figures[what]:.1f} ({low:.1f} to {high:.1f})"
