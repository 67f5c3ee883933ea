# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Whether tracer providers that the program made have what the delivery to MLflow needs."""

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
    """Processors that do not know their tracer provider; ids that a seed repeats."""
    ours = [it for it in registered_processors() if isinstance(it, MLflowBatchSpanProcessor)]
    if not ours:
        return
    apart = [processor for processor in ours if not is_joined(processor)]
    if apart:
        yield Check(
            "provider",
            "warn",
            f"{len(apart)} span processors have not seen a trace of the global tracer provider. If "
            f"they are of another provider, make it with {_ASKED}",
        )
    if has_ids_by_the_seed(trace.get_tracer_provider()) or any(map(was_late, ours)):
        yield Check(
            "provider",
            "warn",
            "a program that calls random.seed() gets the id of its first trace again in each run, "
            f"and MLflow keeps one trace of all runs; make the provider with {_ASKED}",
        )
    elif not apart:
        yield Check("provider", "ok", "the tracer provider makes ids that a seed does not repeat")
