# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of which nothing is recorded, by the setting ``module_filter`` or ``trace_condition``."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry.context import Context

from opentelemetry.instrumentation.dspy._calls import generators
from opentelemetry.instrumentation.dspy._calls.generators import GENERATORS
from opentelemetry.instrumentation.dspy._calls.propagation import restore_context
from opentelemetry.instrumentation.dspy._calls.steps import CallPart
from opentelemetry.instrumentation.dspy._guarding import forget_our_frames, guarded
from opentelemetry.instrumentation.dspy.api import CALL_KEY

if TYPE_CHECKING:
    from opentelemetry.instrumentation.dspy._calls.selection import Selection

MUTED_KEY: Final = context_api.create_key("dspy-muted")
"""Key of the OTel context that holds the innermost `MutedCall`."""

_NO_ARGUMENTS: Final[Mapping[str, Any]] = {}


class MutedCall(CallPart):
    """A call without a span, and without spans of the calls below it; in place of a `Call`.

    Attributes:
        kwargs: The keyword arguments of the call. Emptied at its end.
        selection: What has decided this.
        whole: Whether selected modules below it have no spans either.
    """

    _token: Token[Context] | None = None

    def __init__(self, selection: Selection, kwargs: Mapping[str, Any], *, whole: bool) -> None:
        self.selection = selection
        self.kwargs = kwargs
        self.whole = whole
        self._around: Any = None
        self._before: Context | None = None

    def open(self, context: Context) -> None:
        """Mute the calls below, which are those in this context."""
        self._before = context_api.get_current()
        self._around = context.get(CALL_KEY)
        self.context = context_api.set_value(MUTED_KEY, self, context)
        self._token = context_api.attach(self.context)

    def mutes(self, context: Context) -> bool:
        """Whether calls in a context are muted: not those below a recorded call."""
        return context.get(CALL_KEY) is self._around

    def leave(self) -> None:
        """Detach from the current context, until `resume` or `close`."""
        if self._token is not None:
            restore_context(self._token)

    def resume(self) -> None:
        """Mute the calls in the caller's context again."""
        if self.context is not None:
            self._token = context_api.attach(self.context)

    def close(self, result: Any, error: BaseException | None = None) -> None:
        """End the call; a second call does nothing."""
        if self.context is None:
            return
        try:
            self._detach()
            if type(result) in GENERATORS:
                guarded(generators.remember_generator, result, self.context)
            # A context that outlives the call must keep nothing alive.
            self.kwargs, self.context, self._before = _NO_ARGUMENTS, None, None
        except BaseException as fault:
            self._detach()
            forget_our_frames(fault)
            raise

    def _detach(self) -> None:
        if self._token is not None:
            restore_context(self._token)
        elif self._before is not None and context_api.get_current() is self.context:
            # Interrupted between attaching the context and keeping the token.
            context_api.attach(self._before)


def muted_in(context: Context) -> MutedCall | None:
    """The call that mutes the calls in a context; None if no call does."""
    call = context.get(MUTED_KEY)
    return call if isinstance(call, MutedCall) and call.mutes(context) else None
