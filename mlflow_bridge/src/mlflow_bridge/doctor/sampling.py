# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which traces are recorded at all, as `mlflow_bridge.doctor` tells it."""

from __future__ import annotations

from collections.abc import Iterator

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bridge.doctor import Check
from mlflow_bridge.environment_settings import ConfigurationError
from mlflow_bridge.sampling.entry_point import sampler_of_new_provider, unused_settings
from mlflow_bridge.sampling.settings import SamplingSettings


def check_sampling() -> Iterator[Check]:
    """What samples here, or would; settings that cannot be used or have no effect."""
    try:
        SamplingSettings()
    except ConfigurationError as error:
        yield Check("sampling", "warn", f"{error}. Every trace is recorded")
        return
    provider: object = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        # None there yet: the one that autolog() would make.
        provider = TracerProvider(sampler=sampler_of_new_provider(), shutdown_on_exit=False)
    unused = unused_settings(provider)
    if unused is not None:
        yield Check("sampling", "warn", unused.rstrip("."))
    elif isinstance(provider, TracerProvider):
        yield Check("sampling", "ok", f"traces are chosen by {provider.sampler.get_description()}")
