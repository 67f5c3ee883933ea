# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The tracer provider: find or create it, and prepare it for the delivery to MLflow."""

from __future__ import annotations

import logging
from typing import cast

from opentelemetry import trace
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace import TracerProvider as SDKTracerProvider

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._mlflow_tracing.joining import follow_mlflow_tracing, join_mlflow_tracing
from mlflow_bridge._setup.pausing import follow_mlflow
from mlflow_bridge._spans.tracer_provider import (
    AcceptsProcessors,
    accepts_processors,
    use_system_random_ids,
)
from mlflow_bridge.sampling.entry_point import sampler_of_new_provider

_logger = logging.getLogger(__name__)


def prepare_provider(provider: object) -> bool:
    """Prepare a tracer provider for the delivery to MLflow. May be repeated.

    The provider then makes ids that ``random.seed()`` does not repeat, unless the program chose
    another generator. MLflow's own tracing uses the provider, too, if it is the global one, and
    ``mlflow.tracing.disable()`` stops the bridge as well.

    Args:
        provider: Must already have the bridge's processor, which has to come before processors
            that are added here.

    Returns:
        False if MLflow's own tracing could not be joined now, but a later call may succeed.
    """
    use_system_random_ids(provider)
    follow_mlflow_tracing(follow_mlflow)
    return join_mlflow_tracing(provider)


def global_provider_of(span: Span) -> object | None:
    """The global tracer provider if it has the resource of this span; else None.

    The resource is all that a span shows of its provider.
    """
    provider: object = trace.get_tracer_provider()
    return provider if getattr(provider, "resource", None) is span.resource else None


def joined_or_new_provider(config: MLflowDSPyConfig) -> AcceptsProcessors:
    """The global tracer provider, created and set if there is none.

    If the global provider does not accept processors, it stays as the program set it. The returned
    provider is then a separate one, and a warning says so.

    Args:
        config: Settings of the sampler for a new provider.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # If another thread sets a provider at the same time, the first one stays.
        trace.set_tracer_provider(_new_provider(config))
    current = trace.get_tracer_provider()
    if accepts_processors(current):
        return current
    _logger.warning(
        "The global tracer provider (%s) is not OpenTelemetry's SDK and takes no span processors. "
        "DSPy is traced to MLflow by a separate tracer provider; spans of other libraries do not "
        "go to MLflow and are not parents of DSPy spans.",
        type(cast("object", current)).__qualname__,
    )
    return _new_provider(config)


def _new_provider(config: MLflowDSPyConfig) -> SDKTracerProvider:
    return SDKTracerProvider(sampler=sampler_of_new_provider(config))
