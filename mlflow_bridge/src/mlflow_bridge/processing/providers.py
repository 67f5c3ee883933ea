# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which tracer provider to join, and making one where there is none."""

from __future__ import annotations

import logging
from typing import Protocol, TypeGuard, cast

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SDKTracerProvider

from mlflow_bridge.processing.system_random_ids import use_system_random_ids
from mlflow_bridge.sampling.entry_point import sampler_of_new_provider, warn_of_unused_settings

_logger = logging.getLogger(__name__)


class AcceptsProcessors(Protocol):
    """A tracer provider that span processors can be added to, such as the SDK's.

    Told by the method and not by the class: wrappers around an SDK provider have it, too.
    """

    def add_span_processor(self, span_processor: SpanProcessor) -> None: ...


def accepts_processors(provider: object) -> TypeGuard[AcceptsProcessors]:
    return callable(getattr(provider, "add_span_processor", None))


def joined_or_new_provider() -> AcceptsProcessors:
    """The global tracer provider, which is made and set if there is none.

    Where the global one takes no processors, it is left to whoever set it: the returned provider is
    a new one beside it, and a warning says so.
    """
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # The first to set one wins; another thread may do so at the same moment.
        trace.set_tracer_provider(_new_provider())
    current = trace.get_tracer_provider()
    if accepts_processors(current):
        warn_of_unused_settings(current)
        use_system_random_ids(current)
        return current
    _logger.warning(
        "The global tracer provider (%s) is not OpenTelemetry's SDK and takes no span processors. "
        "DSPy is traced to MLflow by a tracer provider of its own; spans of other libraries do not "
        "get there, and are not parents of DSPy's.",
        type(cast("object", current)).__qualname__,
    )
    return _new_provider()


def _new_provider() -> SDKTracerProvider:
    provider = SDKTracerProvider(sampler=sampler_of_new_provider())
    use_system_random_ids(provider)
    return provider
