# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What one kind of DSPy operation has to know so that its calls become spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from opentelemetry.instrumentation.dspy.tracing import Call

Attributes = dict[str, Any]


class SpanStart(NamedTuple):
    """What a span has from its first moment, so that samplers can decide on it."""

    name: str
    attributes: Attributes
    kind: SpanKind = SpanKind.INTERNAL


class Operation(Protocol):
    """How one kind of DSPy operation becomes a span. Methods may raise: the caller guards them."""

    name: str

    def start(self, call: Call) -> SpanStart | None:
        """Name, kind and the few cheap attributes that samplers need; None for no span.

        Metrics are told apart by these attributes. Called for unrecorded calls as well.
        """
        ...

    def inputs(self, call: Call) -> Attributes:
        """Attributes read from the arguments before the call runs; only for recording spans."""
        ...

    def outputs(self, call: Call, result: Any) -> Attributes:
        """Attributes read from the result; only for recording spans."""
        ...

    def ended(self, call: Call, error: BaseException | None) -> Attributes:
        """Attributes known at the end however it came; called for unrecorded calls as well."""
        ...
