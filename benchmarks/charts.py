# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The charts of docs/performance.md: small, and the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.instrumentations import WAYS
from benchmarks.sections import delivery, memory

_SETTINGS: Any = {
    "svg.hashsalt": "benchmarks",  # ids that do not change from run to run
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_COLOURS = {
    "openinference": "#b0b7c3",
    "genai-dspy": "#8793a6",
    "mlflow": "#5b6778",
    "ours": "#d9480f",
}
_SITUATION_COLOURS = {"steady": "#d9480f", "full": "#5b6778", "down": "#1c7ed6"}


def draw(results: Mapping[str, Any], directory: Path) -> list[Path]:
    """Draw the charts for which there are figures. Returns the files."""
    written: list[Path] = []
    with matplotlib.rc_context(_SETTINGS):
        for name, (section, paint) in _CHARTS.items():
            if section in results:
                figure = Figure(figsize=(7, 3.2), layout="constrained")
                paint(figure, results[section])
                file = directory / f"performance-{name}.svg"
                figure.savefig(file, format="svg", metadata={"Date": None}, facecolor="white")
                # matplotlib ends some lines with a blank.
                lines = file.read_text("utf-8").splitlines()
                file.write_text("\n".join(line.rstrip() for line in lines) + "\n", "utf-8")
                written.append(file)
    return written


def _cost(figure: Figure, data: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    _bars(axes, data, lambda figures: figures["added_us"])
    axes.set_yscale("log")
    axes.set_ylabel("µs added to a call (log)")


def _ratio(figure: Figure, data: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    _bars(axes, data, lambda figures: figures.get("ratio"))
    axes.axhline(1.0, color="#000000", linewidth=0.8)
    axes.set_ylabel("added, as multiple of the floor")


def _bars(axes: Axes, data: Mapping[str, Any], value: Callable[[Any], float | None]) -> None:
    programs = list(data)
    ways = [way for way in _COLOURS if value(data[programs[0]].get(way, {"added_us": 0}))]
    width = 0.8 / len(ways)
    for index, way in enumerate(ways):
        places = [number + (index - (len(ways) - 1) / 2) * width for number in range(len(programs))]
        heights = [value(data[program][way]) or 0.0 for program in programs]
        axes.bar(places, heights, width * 0.92, label=WAYS[way].label, color=_COLOURS[way])
    axes.set_xticks(range(len(programs)), programs)
    axes.legend(frameon=False, fontsize=8)


def _delivery(figure: Figure, data: Mapping[str, Any]) -> None:
    left, right = figure.subplots(1, 2)
    for axes, kind in ((left, "sqlite"), (right, "server")):
        paths = list(data[kind])
        client = [data[kind][path]["cpu_ms_per_trace"] for path in paths]
        server = [data[kind][path]["server_ms_per_trace"] for path in paths]
        places = range(len(paths))
        colours = ["#d9480f" if path == "bridge" else "#8793a6" for path in paths]
        axes.barh(places, client, color=colours)
        axes.barh(places, server, left=client, color="#dfe3e8", label="server")
        axes.set_yticks(places, [delivery.LABELS[path].replace(" on ", "\non ") for path in paths])
        axes.invert_yaxis()
        axes.set_xlabel("ms of CPU for each trace")
        axes.set_title(
            "SQLite" if kind == "sqlite" else "server (light: its own share)", fontsize=9
        )


def _memory(figure: Figure, data: Mapping[str, Any]) -> None:
    axes = figure.subplots()
    for name, label in memory.LABELS.items():
        spans, sizes = zip(*data[name]["points"], strict=True)
        axes.plot(
            [count / 1000 for count in spans], sizes, label=label, color=_SITUATION_COLOURS[name]
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("thousand spans")
    axes.set_ylabel("resident MiB")
    axes.legend(frameon=False, fontsize=8)


_CHARTS: Mapping[str, tuple[str, Callable[[Figure, Mapping[str, Any]], None]]] = {
    "cost": ("cost", _cost),
    "ratio": ("cost", _ratio),
    "delivery": ("delivery", _delivery),
    "memory": ("memory", _memory),
}
