# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The check whether the program's own tracer providers meet the needs of the delivery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from opentelemetry import trace

from mlflow_bridge._delivery.registry import registered_processors
from mlflow_bridge._setup.doctor import Check
from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor, is_joined, was_late
from mlflow_bridge._spans.tracer_provider import has_ids_by_the_seed

_ASKED: Final = (
    "TracerProvider(sampler=DSPySampler(), id_generator=SystemRandomIdGenerator()), both from "
    "mlflow_bridge"
)


def check_provider() -> Iterator[Check]:
    """Check for processors without a known tracer provider, and for ids that a seed repeats."""
    ours = [it for it in registered_processors() if isinstance(it, MLflowBatchSpanProcessor)]
    if not ours:
        return
    apart = [processor for processor in ours if not is_joined(processor)]
    if apart:
        yield Check(
            "provider",
            "warn",
            f"{len(apart)} span processors have not seen a trace of the global tracer provider. If "
            f"they belong to another provider, make that provider with {_ASKED}",
        )
    if has_ids_by_the_seed(trace.get_tracer_provider()) or any(map(was_late, ours)):
        yield Check(
            "provider",
            "warn",
            "if a program calls random.seed(), its first trace has the same id in each run, and "
            f"MLflow keeps one trace of all runs; make the provider with {_ASKED}",
        )
    elif not apart:
        yield Check("provider", "ok", "the tracer provider makes ids that a seed does not repeat")
