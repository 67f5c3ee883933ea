# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Machine instructions of the two hottest paths, by valgrind if it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.processes import QUIET
from benchmarks.scale import Scale
from benchmarks.tables import Table, times

NAME = "instructions"
_NESTED_BELOW = 10
_TOTALS = re.compile(r"^summary: (\d+)$", re.MULTILINE)
_PHASE = re.compile(r"^desc: Trigger: dump (.+)$", re.MULTILINE)


def run(scale: Scale) -> dict[str, Any]:
    """Count the instructions of one call in each phase; empty without valgrind."""
    if shutil.which("valgrind") is None or shutil.which("callgrind_control") is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        _run_valgrind(Path(directory), scale.counted_calls)
        texts = [file.read_text() for file in Path(directory).glob("callgrind.out.*")]
    totals = dict(filter(None, map(phase_total, texts)))
    nothing = totals.pop("nothing")
    return {name: (total - nothing) / scale.counted_calls for name, total in totals.items()}


def phase_total(text: str) -> tuple[str, int] | None:
    """The phase of a callgrind file and its instructions; None for the file at the end."""
    phase, total = _PHASE.search(text), _TOTALS.search(text)
    return (phase[1].strip(), int(total[1])) if phase and total else None


def _run_valgrind(directory: Path, calls: int) -> None:
    command = [
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet"),
        f"--callgrind-out-file={directory}/callgrind.out",
        *(sys.executable, "-m", "benchmarks.under_valgrind", str(calls)),
    ]
    subprocess.run(
        command, env=os.environ | QUIET, check=True, stdout=subprocess.DEVNULL, timeout=1800
    )


def tables(data: Mapping[str, Any]) -> list[Table]:
    """A table of the instructions, and of their ratio to the floor's."""
    if not data:
        return [Table("instructions", "Instructions: valgrind is not installed", ["", ""], [])]
    added = data["Predict with content"] - data["Predict alone"]
    floor = data["Predict floor"]
    root = data["root sampled out"] - data["root alone"]
    nested = data["nested sampled out"] - data["nested alone"]
    below = (nested - root) / _NESTED_BELOW
    out = data["Predict sampled out"] - data["Predict alone"]
    rows = [
        ["Predict, not instrumented", f"{data['Predict alone']:,.0f}", "-"],
        ["added with content", f"{added:,.0f}", times(added / floor)],
        ["its floor", f"{floor:,.0f}", times(1.0)],
        ["added to Predict when sampled out", f"{out:,.0f}", times(out / floor)],
        ["of that, the root", f"{root:,.0f}", times(root / floor)],
        ["a module below an unsampled root", f"{below:,.0f}", times(below / floor)],
    ]
    return [
        Table(
            "instructions",
            "Machine instructions of one call, by callgrind",
            ["", "instructions", "of the floor"],
            rows,
        )
    ]
