# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which calls are recorded if there is a ``module_filter`` or a ``trace_condition``.

The condition decides about an outermost call and all calls below it. The filter decides about
modules. A module that it does not select has no span. If a selected module is around it, the calls
below it are recorded; otherwise they are muted down to the next selected module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context

from opentelemetry.instrumentation.dspy._calls import generators
from opentelemetry.instrumentation.dspy._calls.call import Call, Operation, Runtime, abandon
from opentelemetry.instrumentation.dspy._calls.generators import GENERATORS
from opentelemetry.instrumentation.dspy._calls.muted import MutedCall, muted_in
from opentelemetry.instrumentation.dspy._calls.propagation import restore_context
from opentelemetry.instrumentation.dspy._calls.selection import Selection
from opentelemetry.instrumentation.dspy._guarding import forget_our_frames, guarded
from opentelemetry.instrumentation.dspy.api import CALL_KEY


def choose(
    runtime: Runtime,
    operation: Operation,
    instance: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    asynchronous: bool,
    context: Context,
) -> tuple[type[Call] | MutedCall | None, Selection | None]:
    """The class of the call to open, a call that mutes, or None; and the selection of its trace."""
    around: Call | None = context.get(CALL_KEY)  # type: ignore[assignment]
    muted = muted_in(context)
    if muted is not None:
        return _below(muted, runtime, operation, instance, kwargs, context), muted.selection
    # A trace keeps the selection with which it has begun.
    selection = runtime.selection if around is None else around.selection
    if selection is None:
        return runtime.call_type, None
    if around is None:
        call = Call(operation, instance, args, kwargs, None, None, asynchronous)
        if selection.asks_about_inputs and not selection.accepts(dict(operation.arguments(call))):
            return MutedCall(selection, kwargs, whole=True), selection
    if not operation.is_module or selection.selects(instance):
        return runtime.call_type, selection
    if _is_in_module(around):
        return PassedCall, selection
    return MutedCall(selection, kwargs, whole=False), selection


def _below(
    muted: MutedCall,
    runtime: Runtime,
    operation: Operation,
    instance: Any,
    kwargs: Mapping[str, Any],
    context: Context,
) -> type[Call] | MutedCall | None:
    if not muted.whole and operation.is_module and muted.selection.selects(instance):
        return runtime.call_type
    if muted_in(context_api.get_current()) is None:
        # In a step of a generator, whose threads and tasks do not inherit that it is muted.
        return MutedCall(muted.selection, kwargs, whole=muted.whole)
    return None


def _is_in_module(call: Call | None) -> bool:
    while call is not None:
        if call.operation.is_module:
            return True
        call = call.parent
    return False


class PassedCall(Call):
    """A call of a module that is not selected, inside of a selected one.

    It has no span. The calls below it belong to the span around it, and have paths and steps of
    agents as if it had one.
    """

    def open(self, runtime: Runtime, context: Context, unrecorded: bool) -> bool:
        parent = self.parent
        if unrecorded or parent is None:
            return False
        start = self.operation.start(self)
        if start is None:
            return False
        self.operation.passed(self)
        self._runtime, self.start_attributes = runtime, start[1]
        self.span, self.recording = parent.span, parent.recording
        values: Any = getattr(parent, "values", None)
        if values is not None:
            self.values = values
        self.context = context_api.set_value(CALL_KEY, self, context)
        self._token = context_api.attach(self.context)
        return True

    def settle(self, result: Any, error: BaseException | None) -> None:
        self.settled = True
        guarded(self.operation.passed_ended, self, result, error)

    def close(self, result: Any, error: BaseException | None = None) -> None:
        context = self.context
        if context is None:
            return
        try:
            if not self.settled:
                self.settle(result, error)
            restore_context(self._token)
            if type(result) in GENERATORS:
                guarded(generators.remember_generator, result, context)
            if error is not None and self.parent is not None:
                self.parent.error_identity = self.error_identity
            # As at the end of other calls: a context that outlives them keeps nothing alive.
            self.args, self.kwargs, self.attributes = (), {}, {}
            self.state = self.context = self.before = None
            self._release()
        except BaseException as fault:
            abandon(self)
            forget_our_frames(fault)
            raise


def recorded_call(call: Call) -> Call:
    """The call itself; for one without a span, the call whose span it belongs to."""
    while isinstance(call, PassedCall) and call.parent is not None:
        call = call.parent
    return call
