# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which traces are recorded at all, as `mlflow_bridge.doctor` tells it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler

from mlflow_bridge._config.settings import MLflowDSPyConfig, environment_variable
from mlflow_bridge._setup.doctor import Check
from mlflow_bridge.sampling.entry_point import sampler_of_new_provider, unused_settings

# Of all ids the first one that is chosen by a ratio: it is left out by a ratio of 0 alone.
_FIRST_ID: Final = 0
_SAMPLED_ELSEWHERE: Final = trace.set_span_in_context(
    trace.NonRecordingSpan(
        trace.SpanContext(1, 1, is_remote=True, trace_flags=trace.TraceFlags(0x01))
    ),
    Context(),
)


def check_sampling(config: MLflowDSPyConfig) -> Iterator[Check]:
    """What samples here, or would; settings that have no effect."""
    provider: object = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        # None there yet: the one that autolog() would make.
        provider = TracerProvider(sampler=sampler_of_new_provider(config), shutdown_on_exit=False)
    unused = unused_settings(provider, config)
    if unused is not None:
        yield Check("sampling", "warn", unused.rstrip("."))
    if isinstance(provider, TracerProvider):
        yield _described(provider.sampler)


def _described(sampler: Sampler) -> Check:
    description = sampler.get_description()
    if _records(sampler, Context()):
        return Check("sampling", "ok", f"traces are chosen by {description}")
    who = f"{description} ({OTEL_TRACES_SAMPLER}, {environment_variable('sampling_rate')})"
    if _records(sampler, _SAMPLED_ELSEWHERE):
        return Check("sampling", "warn", f"no trace that begins here is recorded by {who}")
    return Check("sampling", "fail", f"no trace is recorded by {who}")


def _records(sampler: Sampler, context: Context) -> bool:
    return sampler.should_sample(context, _FIRST_ID, "doctor").decision is not Decision.DROP
