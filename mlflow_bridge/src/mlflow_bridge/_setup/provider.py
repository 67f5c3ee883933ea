# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Finds or makes the tracer provider, and prepares it for the delivery to MLflow."""

from __future__ import annotations

import logging
from typing import cast

from opentelemetry import trace
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace import TracerProvider as SDKTracerProvider

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._mlflow_tracing.joining import join_mlflow_tracing
from mlflow_bridge._spans.tracer_provider import (
    AcceptsProcessors,
    accepts_processors,
    use_system_random_ids,
)
from mlflow_bridge.sampling.entry_point import sampler_of_new_provider, warn_of_unused_settings

_logger = logging.getLogger(__name__)


def prepare_provider(provider: object, config: MLflowDSPyConfig) -> bool:
    """Do what the delivery to MLflow needs of a tracer provider. May be repeated.

    It makes ids that ``random.seed()`` does not repeat, unless it has a generator of the program's
    choice. MLflow's own tracing uses it, too, if it is the global one. Sampling settings that have
    no effect with it are named by a warning.

    Args:
        provider: Has a processor of ours, before those that are added here.
        config: The settings of that processor.

    Returns:
        False if MLflow's own tracing could not be joined now, and may be later.
    """
    use_system_random_ids(provider)
    warn_of_unused_settings(provider, config)
    return join_mlflow_tracing(provider)


def global_provider_of(span: Span) -> object | None:
    """The global tracer provider, if it has the resource of this span; else None.

    A span shows nothing of its provider but the resource.
    """
    provider: object = trace.get_tracer_provider()
    return provider if getattr(provider, "resource", None) is span.resource else None


def joined_or_new_provider(config: MLflowDSPyConfig) -> AcceptsProcessors:
    """The global tracer provider, which is made and set if there is none.

    Where the global one takes no processors, it is left to the program that set it: the returned
    provider is a new one beside it, and a warning says so.

    Args:
        config: Has the settings of the sampler of a new provider.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # The first to set one wins; another thread may do so at the same moment.
        trace.set_tracer_provider(_new_provider(config))
    current = trace.get_tracer_provider()
    if accepts_processors(current):
        return current
    _logger.warning(
        "The global tracer provider (%s) is not OpenTelemetry's SDK and takes no span processors. "
        "DSPy is traced to MLflow by a tracer provider of its own; spans of other libraries do not "
        "get there, and are not parents of DSPy's.",
        type(cast("object", current)).__qualname__,
    )
    return _new_provider(config)


def _new_provider(config: MLflowDSPyConfig) -> SDKTracerProvider:
    return SDKTracerProvider(sampler=sampler_of_new_provider(config))
