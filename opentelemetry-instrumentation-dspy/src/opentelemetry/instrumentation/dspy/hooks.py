# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The types of the hooks that ``instrument()`` takes, and what they are shown of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from opentelemetry.trace import Span


class DSPyCall(Protocol):
    """One DSPy operation in progress. It is there to be read: its objects are the program's own."""

    @property
    def operation_name(self) -> str:
        """The kind of operation, the value of ``dspy.operation``: ``lm``, ``predict``, ..."""
        ...

    @property
    def instance(self) -> Any:
        """The DSPy object that was called: a module, an LM, a tool, ..."""
        ...

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments, without the instance. Empty once the call is over."""
        ...

    @property
    def kwargs(self) -> Mapping[str, Any]:
        """Keyword arguments. Empty once the call is over."""
        ...

    @property
    def path(self) -> str | None:
        """Dotted path of a module inside its program, as in ``named_predictors()``, where known."""
        ...

    @property
    def parent(self) -> DSPyCall | None:
        """The enclosing DSPy call, also across threads; None for the outermost."""
        ...


RequestHook = Callable[[Span, DSPyCall], None]
"""Called as ``request_hook(span, call)`` before the operation runs, in its context."""

ResponseHook = Callable[[Span, DSPyCall, Any], None]
"""Called as ``response_hook(span, call, result)`` after the operation returned, before its span
ends. Not called where the operation raised: the exception is on the span."""
