# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of a tracer provider."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from mlflow_bridge._process.rng import rng


class AcceptsProcessors(Protocol):
    """A tracer provider that span processors can be added to, such as the SDK's.

    Told by the method and not by the class: wrappers around an SDK provider have it, too.
    """

    def add_span_processor(self, span_processor: SpanProcessor) -> None: ...


def accepts_processors(provider: object) -> TypeGuard[AcceptsProcessors]:
    """Whether span processors can be added to a tracer provider."""
    return callable(getattr(provider, "add_span_processor", None))


class SystemRandomIdGenerator(RandomIdGenerator):
    """Random ids from a generator of their own. Thread-safe, also after a fork.

    ``OTEL_PYTHON_ID_GENERATOR=system_random`` names it where the bridge does not put it in place.
    """

    def generate_span_id(self) -> int:
        """A span id of 64 random bits."""
        return rng.getrandbits(64) or 1  # 0 is none

    def generate_trace_id(self) -> int:
        """A trace id of 128 random bits."""
        return rng.getrandbits(128) or 1


def has_ids_by_the_seed(provider: object) -> bool:
    """Whether a tracer provider has OpenTelemetry's own generator of ids."""
    # Not isinstance: a subclass is a choice of the program.
    return type(getattr(provider, "id_generator", None)) is RandomIdGenerator


def use_system_random_ids(provider: object) -> None:
    """Have a tracer provider make such ids, unless it has a generator of the program's choice."""
    if has_ids_by_the_seed(provider):
        generator: Any = getattr(provider, "id_generator", None)
        # The very object, since the tracers that were handed out already have it, too.
        generator.__class__ = SystemRandomIdGenerator
