# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: print what instrumentation adds to each program, content recorded."""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from benchmarks.measure import Result, measure
from benchmarks.programs import programs


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--calls", type=int, default=40, help="in a round; default: %(default)s")
    options = parser.parse_args()
    print("CPU time of the calling thread for one call, in microseconds; medians.")
    print("floor: the same spans with the same attributes, made by hand with the bare SDK.\n")
    print(_row("program", "alone", "added", "spans", "floor", "added/floor"))
    for program in programs():
        print(_line(measure(program, rounds=options.rounds, calls=options.calls)), flush=True)


def _line(result: Result) -> str:
    times = (f"{value:,.0f}" for value in (result.alone, result.added))
    ratio = f"{result.added / result.floor:.2f}x"
    return _row(result.program, *times, str(result.spans), f"{result.floor:,.0f}", ratio)


def _row(program: str, *figures: str) -> str:
    return f"{program:<10}" + "".join(f"{figure:>13}" for figure in figures)


if __name__ == "__main__":
    main()
