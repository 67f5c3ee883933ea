# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What one kind of DSPy operation has to know so that its calls become spans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind

if TYPE_CHECKING:
    from opentelemetry.instrumentation.dspy._calls.call import Call

Attributes = dict[str, Any]


SpanStart = tuple[str, Attributes, SpanKind]
"""Name, attributes and kind: what a span has at once, so that samplers can decide on it."""

# A member of an enumeration takes a while to be found in its class.
INTERNAL = SpanKind.INTERNAL
CLIENT = SpanKind.CLIENT


class Operation(ABC):
    """How one kind of DSPy operation becomes a span. Methods may raise: the caller guards them.

    What they know they put into the ``attributes`` that they are given, which may hold what was
    put there before, at the beginning of the call for one.
    """

    name: str

    @abstractmethod
    def start(self, call: Call) -> SpanStart | None:
        """Name, kind and the few cheap attributes that samplers need; None for no span.

        Metrics are told apart by these attributes. Called for unrecorded calls as well.
        """
        ...

    def inputs(self, call: Call, attributes: Attributes) -> None:
        """Read the arguments, before the call runs; only for recording spans."""
        return

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        """Read the result; only for recording spans."""
        return

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        """Say what is known at the end however it came; called for unrecorded calls as well."""
        return
