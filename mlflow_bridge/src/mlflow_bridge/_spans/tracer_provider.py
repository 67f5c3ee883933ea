# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What is asked of a tracer provider."""

from __future__ import annotations

from typing import Protocol, TypeGuard

from opentelemetry.sdk.trace import SpanProcessor


class AcceptsProcessors(Protocol):
    """A tracer provider that span processors can be added to, such as the SDK's.

    Told by the method and not by the class: wrappers around an SDK provider have it, too.
    """

    def add_span_processor(self, span_processor: SpanProcessor) -> None: ...


def accepts_processors(provider: object) -> TypeGuard[AcceptsProcessors]:
    """Whether span processors can be added to a tracer provider."""
    return callable(getattr(provider, "add_span_processor", None))
