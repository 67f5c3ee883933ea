# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Properties of a tracer provider: whether it takes processors, and how it makes ids."""

from __future__ import annotations

from inspect import signature
from typing import Any, Protocol, TypeGuard

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from mlflow_bridge._config.base import report_once
from mlflow_bridge._process.rng import rng


class AcceptsProcessors(Protocol):
    """A tracer provider that span processors can be added to, such as the SDK's.

    Recognised by the method, not by the class: wrappers around an SDK provider have it, too.
    """

    def add_span_processor(self, span_processor: SpanProcessor) -> None: ...


def accepts_processors(provider: object) -> TypeGuard[AcceptsProcessors]:
    """Whether span processors can be added to a tracer provider."""
    return callable(getattr(provider, "add_span_processor", None))


def add_processor(provider: AcceptsProcessors, processor: SpanProcessor) -> None:
    """Add a span processor, and keep the processors that the provider has.

    Phoenix's provider shuts its own processor down at the first further one, unless an argument
    says otherwise. If a provider drops a processor in any case, one warning names it.
    """
    before = _processors_of(provider)
    add: Any = provider.add_span_processor
    if _has_parameter(add, "replace_default_processor"):
        add(processor, replace_default_processor=False)
    else:
        add(processor)
    after = _processors_of(provider)
    dropped = [type(one).__name__ for one in before if not any(one is kept for kept in after)]
    if dropped:
        report_once(
            f"The tracer provider ({type(provider).__name__}) has removed {', '.join(dropped)} for "
            "the span processor of MLflow: that backend gets no more spans. Add its processor to "
            "the provider again, after the delivery to MLflow is set up."
        )


def _processors_of(provider: object) -> tuple[object, ...]:
    # A private name of the SDK. Without it, a dropped processor is not noticed.
    active = getattr(provider, "_active_span_processor", None)
    return tuple(getattr(active, "_span_processors", ()))


def _has_parameter(function: Any, name: str) -> bool:
    try:
        return name in signature(function).parameters
    except (TypeError, ValueError):
        return False


class SystemRandomIdGenerator(RandomIdGenerator):
    """A generator of ids that do not depend on the program's seed. Thread-safe, also after a fork.

    ``OTEL_PYTHON_ID_GENERATOR=system_random`` selects it if the bridge does not install it.
    """

    def generate_span_id(self) -> int:
        """A span id of 64 random bits."""
        return rng.getrandbits(64) or 1  # 0 is not a valid id

    def generate_trace_id(self) -> int:
        """A trace id of 128 random bits."""
        return rng.getrandbits(128) or 1


def has_ids_by_the_seed(provider: object) -> bool:
    """Whether a tracer provider has OpenTelemetry's own id generator, which the seed affects."""
    # Not isinstance: a subclass is a choice of the program.
    return type(getattr(provider, "id_generator", None)) is RandomIdGenerator


def use_system_random_ids(provider: object) -> None:
    """Use `SystemRandomIdGenerator`, unless the program has chosen an id generator."""
    if has_ids_by_the_seed(provider):
        generator: Any = getattr(provider, "id_generator", None)
        # The same object is changed, because existing tracers refer to it, too.
        generator.__class__ = SystemRandomIdGenerator
