# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The public types: a DSPy call as hooks, samplers and processors see it, and patch status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from opentelemetry import context as context_api
from opentelemetry.context import Context
from opentelemetry.trace import Span

from opentelemetry.instrumentation.dspy._guarding import raised_by_signal

__all__ = [
    "CALL_KEY",
    "DSPyCall",
    "PatchStatus",
    "ProgramHook",
    "RequestHook",
    "ResponseHook",
    "SpanRedactor",
    "current_dspy_call",
    "raised_by_signal",
]

CALL_KEY: Final = context_api.create_key("dspy-call")
"""Key of the OTel context that holds the DSPy call in progress."""


class DSPyCall(Protocol):
    """One DSPy operation in progress. Read only: its objects belong to the program."""

    @property
    def operation_name(self) -> str:
        """The kind of operation, the value of ``dspy.operation``: ``lm``, ``predict``, ..."""
        ...

    @property
    def instance(self) -> Any:
        """The DSPy object that was called: a module, an LM, a tool, ...

        A call that has ended does not keep its object alive: None if the object is gone.
        """
        ...

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, without the instance. Empty after the call."""
        ...

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Keyword arguments. Empty after the call."""
        ...

    @property
    def path(self) -> str | None:
        """Dotted path of a module inside its program, as in ``named_predictors()``, if known."""
        ...

    @property
    def parent(self) -> DSPyCall | None:
        """The enclosing DSPy call, also across threads; None for the outermost."""
        ...


RequestHook = Callable[[Span, DSPyCall], None]
"""Called as ``request_hook(span, call)`` before the operation runs, in its context."""

ResponseHook = Callable[[Span, DSPyCall, Any], None]
"""Called as ``response_hook(span, call, result)`` after the operation returned, before its span
ends. Not called if the operation raised: the exception is on the span."""


ProgramHook = Callable[[Span, str, Callable[[], str | None]], None]
"""Called as ``program_hook(span, digest, describe)`` for the outermost module of each recorded
trace, after its hash is known. ``describe()`` returns the program's description as JSON, with its
state and without secrets; None if the program cannot be described. It is content, and redacted."""


def current_dspy_call(context: Context | None = None) -> DSPyCall | None:
    """The innermost DSPy call in progress; None outside of DSPy.

    For samplers and ``SpanProcessor.on_start``. In the context passed with a span of this
    instrumentation, it is the call whose span is being started, so its object and arguments can be
    read before anything is serialised. In the context of any other span, it is the enclosing call.

    Args:
        context: The context that was passed to them; default: the current one.
    """
    call: Any = context_api.get_value(CALL_KEY, context)
    return call


class SpanRedactor(Protocol):
    """The setting ``redact``, for packages that deliver spans of other origin.

    Values of fields that DSPy calls of the same trace have shown are removed as well.
    """

    def span_attributes(self, trace_id: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Redact the attributes of a span."""
        ...

    def span_name(self, trace_id: int, name: str) -> str:
        """Redact the name of a span by patterns and known values; a function does not get it."""
        ...

    def span_text(self, trace_id: int, field: str, text: str) -> str:
        """Redact another text of a span, such as the message of its status."""
        ...


@dataclass(frozen=True, slots=True)
class PatchStatus:
    """The result of installing one patch point.

    Attributes:
        point: The target, as ``module:attribute``.
        state: ``installed``, ``missing`` (DSPy has no such target) or ``not_applicable`` (this
            DSPy version does not need it).
        detail: The reason, and what is not recorded because of it; empty if installed.
    """

    point: str
    state: str
    detail: str = ""
