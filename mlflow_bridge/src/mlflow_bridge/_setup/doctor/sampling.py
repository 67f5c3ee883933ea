# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The check which traces the sampler records."""

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
from mlflow_bridge._setup.logs import described_sampler
from mlflow_bridge.sampling.entry_point import sampler_of_new_provider, unused_settings
from mlflow_bridge.sampling.tail import TailSampling

# The id that a ratio sampler drops only at a ratio of 0.
_FIRST_ID: Final = 0
_SAMPLED_ELSEWHERE: Final = trace.set_span_in_context(
    trace.NonRecordingSpan(
        trace.SpanContext(1, 1, is_remote=True, trace_flags=trace.TraceFlags(0x01))
    ),
    Context(),
)


def check_sampling(config: MLflowDSPyConfig) -> Iterator[Check]:
    """Check the current sampler, or the sampler of a new provider, and unused sampling settings."""
    provider: object = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        # There is no provider yet, so the check describes the provider that autolog() would make.
        provider = TracerProvider(sampler=sampler_of_new_provider(config), shutdown_on_exit=False)
    unused = unused_settings(provider, config)
    if unused is not None:
        yield Check("sampling", "warn", unused.rstrip("."))
    if isinstance(provider, TracerProvider):
        yield _described(provider.sampler)
    yield from _check_tail(config)


def _check_tail(config: MLflowDSPyConfig) -> Iterator[Check]:
    tail = TailSampling.from_config(config)
    if tail is None:
        return
    description = f"ended traces go to MLflow by {tail.description()}"
    if tail.rate == 1:
        variable = environment_variable("tail_rate")
        yield Check("tail sampling", "warn", f"{description}: every trace is kept ({variable})")
    else:
        yield Check("tail sampling", "ok", description)


def _described(sampler: Sampler) -> Check:
    description = described_sampler(sampler)
    if _records(sampler, Context()):
        return Check("sampling", "ok", f"traces are chosen by {description}")
    who = f"{description} ({OTEL_TRACES_SAMPLER}, {environment_variable('sampling_rate')})"
    if _records(sampler, _SAMPLED_ELSEWHERE):
        return Check("sampling", "warn", f"no trace that begins here is recorded by {who}")
    return Check("sampling", "fail", f"no trace is recorded by {who}")


def _records(sampler: Sampler, context: Context) -> bool:
    return sampler.should_sample(context, _FIRST_ID, "doctor").decision is not Decision.DROP
