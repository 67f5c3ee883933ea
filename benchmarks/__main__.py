# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks`` measures the cost of instrumentation and delivery on this machine.

It prints tables and keeps the figures as JSON. With ``--write-docs`` it writes the tables and
charts to docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.goals import goals_table
from benchmarks.pages import fill, regions_of
from benchmarks.scale import FULL, QUICK, Scale
from benchmarks.tables import Table, as_markdown, as_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "build" / "benchmarks.json"

SECTIONS = (
    "instructions",
    "steps",
    "profile",
    "cost",
    "growth",
    "unsampled",
    "startup",
    "latency",
    "delivery",
    "memory",
)
_DISTRIBUTIONS = (
    "dspy",
    "mlflow",
    "opentelemetry-sdk",
    "openinference-instrumentation-dspy",
    "opentelemetry-instrumentation-genai-dspy",
)


def main() -> None:
    options = _options()
    names = options.only or SECTIONS
    results = _earlier(options.json) if options.only or options.report else {}
    if not options.report:
        scale = QUICK if options.quick else FULL
        for name in names:
            _measure(name, scale, results)
            results.setdefault("quick", {})[name] = options.quick
            _keep(options.json, results)
    found = _tables({name: results[name] for name in SECTIONS if name in results})
    print("\n".join(as_text(table) for table in (found if options.report else found[-1:])))
    if options.write_docs:
        _write_docs(results, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a few minutes: fewer rounds, less exact"
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=SECTIONS,
        help="measure this part and keep the other figures; may be repeated",
    )
    parser.add_argument(
        "--report", action="store_true", help="measure nothing: show the saved figures"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument(
        "--write-docs", action="store_true", help="fill docs/performance.md, and draw its charts"
    )
    return parser.parse_args()


def _measure(name: str, scale: Scale, results: dict[str, Any]) -> None:
    section = import_module(f"benchmarks.sections.{name}")
    print(f"== {name} ...", flush=True)
    start = time.monotonic()
    results[name] = section.run(scale)
    seconds = time.monotonic() - start
    results.setdefault("seconds", {})[name] = round(seconds)
    results["environment"] = _environment()
    for table in section.tables(results[name]):
        print(as_text(table), flush=True)
    print(f"== {name} took {seconds:.0f} s\n", flush=True)


def _tables(results: dict[str, Any]) -> list[Table]:
    found = [
        table
        for name, data in results.items()
        for table in import_module(f"benchmarks.sections.{name}").tables(data)
    ]
    return [*found, goals_table(results)]


def _earlier(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _keep(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", "utf-8")


def _environment() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _write_docs(results: dict[str, Any], found: list[Table]) -> None:
    from benchmarks.charts import draw

    regions: dict[str, list[str]] = {}
    for table in found:
        regions.setdefault(table.region, []).append(as_markdown(table))
    regions["environment"] = [_environment_line(results)]
    page = PAGE.read_text("utf-8")
    known = {name: "\n\n".join(parts) for name, parts in regions.items()}
    unknown = known.keys() - regions_of(page)
    if unknown:
        raise SystemExit(f"{PAGE} has no region {', '.join(sorted(unknown))}")
    PAGE.write_text(fill(page, known), "utf-8")
    draw(results, PAGE.parent)
    print(f"Written: {PAGE}")


def _environment_line(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {text}" for name, text in results["environment"].items())
    minutes = sum(results["seconds"].values()) / 60
    quick = [name for name, short in results.get("quick", {}).items() if short]
    short = f" With few rounds (`--quick`): {', '.join(quick)}." if quick else ""
    return f"{versions}. All of it took {minutes:.0f} minutes.{short}"


if __name__ == "__main__":
    main()
