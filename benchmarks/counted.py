# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of programs without and with instrumentation, and of the floor; see `steps`.

Runs in a separate process, since only this measurement needs the interpreter's hooks.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased

from benchmarks.floor import recipe, replay
from benchmarks.instrumentations import Installed
from benchmarks.null_exporter import null_provider
from benchmarks.programs import Program, program
from benchmarks.steps import count_steps
from opentelemetry.instrumentation.dspy import DSPyInstrumentor


def counted(names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Count for each program ``alone``, ``added``, ``floor`` and ``spans``.

    The same without content, and with spans for the steps of adapters.

    ``sampled_out`` is the number of steps that are added if the root is not sampled.
    """
    found: dict[str, dict[str, float]] = {}
    for name in names:
        chosen = program(name)
        alone = _steps_of(chosen)
        figures = _figures(chosen, alone, content=True)
        bare = _figures(chosen, alone, content=False)
        steps = _figures(chosen, alone, content=True, adapter_steps="spans")
        found[name] = {
            "alone": alone,
            **figures,
            "no_content_added": bare["added"],
            "no_content_floor": bare["floor"],
            "adapter_steps_added": steps["added"],
            "adapter_steps_floor": steps["floor"],
            # Counted again: in some releases of DSPy, the cost of a call grows with earlier calls.
            "sampled_out": _sampled_out(chosen) - _steps_of(chosen),
        }
    return found


def _figures(
    chosen: Program, alone: float, *, content: bool, adapter_steps: str = "attributes"
) -> dict[str, float]:
    installed, provider = _instrumented(None, content, adapter_steps)
    try:
        together = _steps_of(chosen)
        spans = installed.spans_of(lambda: chosen.calls(1))
    finally:
        DSPyInstrumentor().uninstrument()
    floor = count_steps(replay([recipe(span) for span in spans], provider.get_tracer("floor")))
    provider.shutdown()
    return {"added": together - alone, "floor": floor, "spans": float(len(spans))}


def _sampled_out(chosen: Program) -> float:
    _, provider = _instrumented(ParentBased(TraceIdRatioBased(0.0)), True, "attributes")
    try:
        return _steps_of(chosen)
    finally:
        DSPyInstrumentor().uninstrument()
        provider.shutdown()


def _instrumented(
    sampler: Sampler | None, content: bool, adapter_steps: str
) -> tuple[Installed, Any]:
    provider, exporter = null_provider(sampler)
    DSPyInstrumentor().instrument(
        tracer_provider=provider, capture_content=content, adapter_steps=adapter_steps
    )
    flush = provider.force_flush
    return Installed(flush, lambda: exporter.count, exporter), provider


def _steps_of(chosen: Program) -> float:
    return count_steps(lambda: chosen.calls(1))
