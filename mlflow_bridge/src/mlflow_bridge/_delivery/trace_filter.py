# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The filter of traces: which traces go to MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._spans.genai import is_of_genai
from mlflow_bridge._spans.trace_buffer import Decision, Spans, TracePolicy

if TYPE_CHECKING:
    from mlflow_bridge.sampling.tail import TailSampling


def policy_of(tail: TailSampling | None, *, only_genai: bool) -> TracePolicy[Any]:
    """The policy that decides which traces are delivered.

    Args:
        tail: The tail sampling; None keeps all traces.
        only_genai: Whether traces without a DSPy or GenAI span are dropped.
    """
    if tail is None:
        return TraceFilter()
    # Only a process with tail sampling needs the classes that read traces.
    from mlflow_bridge.sampling.tail_policy import TailPolicy

    return TailPolicy(tail, only_genai=only_genai)


class TraceFilter(TracePolicy[None]):
    """The policy that keeps traces with a DSPy or GenAI span, and drops other traces.

    A span counts as a GenAI span if its scope is our instrumentation, or if it has an attribute of
    a GenAI vocabulary; MLflow's own spans are included. From its first GenAI span on, a trace is
    kept, and its held spans are sent first. A trace that is held for too long, or for which there
    is no room, is kept as a whole: an unwanted trace is better than a lost trace.
    """

    def new_facts(self) -> None:
        """Nothing but the decision is remembered of a trace."""

    def note(self, span: ReadableSpan, facts: None) -> Decision | None:
        """Keep the trace of a DSPy or GenAI span."""
        return Decision.KEEP if is_of_genai(span) else None

    def conclude(self, facts: None, spans: Spans, *, complete: bool) -> Decision:
        """Drop a trace that ended without a DSPy or GenAI span."""
        return Decision.DROP if complete else Decision.KEEP
