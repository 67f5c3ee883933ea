# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls under ``valgrind --tool=callgrind``, which counts instructions phase by phase.

``python -m benchmarks.under_valgrind CALLS`` starts with counting switched off, because importing
dspy would take minutes otherwise. ``callgrind_control`` switches counting on, and writes each phase
to a separate file.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from benchmarks.floor import recipe, replay
from benchmarks.instrumentations import Installed
from benchmarks.null_exporter import null_provider
from benchmarks.programs import Program, program
from opentelemetry.instrumentation.dspy import DSPyInstrumentor

PHASES = (
    "nothing",
    "Predict alone",
    "Predict with content",
    "Predict floor",
    "Predict sampled out",
    "root alone",
    "root sampled out",
    "nested alone",
    "nested sampled out",
)
"""Names of the phases, in the order in which their files are written."""

NESTED = 11
_WARM_UP = 25


def main() -> None:
    calls = int(sys.argv[1])
    gc.disable()
    _control("-i", "on")
    for name, run in _phases(calls):
        run(_WARM_UP)
        _control("-z")
        run(calls)
        _control("-d", name)
    _control("-i", "off")


def _phases(calls: int) -> Iterator[tuple[str, Callable[[int], Any]]]:
    predict = program("Predict")
    root, nested = program("nested 1"), program(f"nested {NESTED}")
    yield PHASES[0], lambda count: None
    yield PHASES[1], predict.calls
    make_spans = yield from _with_content(predict)
    yield PHASES[3], lambda count: [make_spans() for _ in range(count)]
    yield from _sampled_out(PHASES[4], predict)
    yield PHASES[5], root.calls
    yield from _sampled_out(PHASES[6], root)
    yield PHASES[7], nested.calls
    yield from _sampled_out(PHASES[8], nested)


def _with_content(
    predict: Program,
) -> Iterator[tuple[str, Callable[[int], Any]]] | Any:
    provider, exporter = null_provider()
    DSPyInstrumentor().instrument(tracer_provider=provider, capture_content=True)
    yield PHASES[2], predict.calls
    installed = Installed(provider.force_flush, lambda: exporter.count, exporter)
    spans = installed.spans_of(lambda: predict.calls(1))
    DSPyInstrumentor().uninstrument()
    return replay([recipe(span) for span in spans], provider.get_tracer("floor"))


def _sampled_out(name: str, chosen: Program) -> Iterator[tuple[str, Callable[[int], Any]]]:
    provider, _ = null_provider(ParentBased(TraceIdRatioBased(0.0)))
    DSPyInstrumentor().instrument(tracer_provider=provider, capture_content=True)
    yield name, chosen.calls
    DSPyInstrumentor().uninstrument()


def _control(*arguments: str) -> None:
    command = ["callgrind_control", *arguments, str(os.getpid())]
    subprocess.run(command, check=True, capture_output=True, timeout=300)


if __name__ == "__main__":
    main()
