# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""How a call begins: whether it gets a span, and in which call and context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context, get_current
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import get_current_span, set_span_in_context

from opentelemetry.instrumentation.dspy._calls import generators
from opentelemetry.instrumentation.dspy._calls.call import Call, Operation, Runtime, abandon
from opentelemetry.instrumentation.dspy._calls.choosing import choose
from opentelemetry.instrumentation.dspy._calls.muted import MUTED_KEY, MutedCall
from opentelemetry.instrumentation.dspy._calls.steps import CallPart
from opentelemetry.instrumentation.dspy._guarding import (
    forget_our_frames,
    is_programs,
    log_once,
)
from opentelemetry.instrumentation.dspy._metrics import MEASURED
from opentelemetry.instrumentation.dspy.api import CALL_KEY


def current_call(operation: str | None = None, instance: Any = None) -> Call | None:
    """The innermost DSPy call in progress, optionally the nearest of a kind and an instance."""
    call = context_api.get_current().get(CALL_KEY)
    while isinstance(call, Call):
        wanted = operation is None or call.operation.name == operation
        if wanted and (instance is None or call.instance is instance):
            return call
        call = call.parent
    return None


def begin_call(
    operation: Operation,
    runtime: Runtime,
    owner: type,
    asynchronous: bool,
    instance: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Call | CallPart | None:
    """Open the call that a traced function is about to make; None if it gets no call.

    Raises only exceptions that `is_programs` accepts, such as KeyboardInterrupt.
    """
    call = None
    try:
        context = before = get_current()
        parent: Any = context.get(CALL_KEY)
        if parent is None and generators.live:
            context = _with_call_of_step(context)
            parent = context.get(CALL_KEY)
        unrecorded = False
        if parent is not None:
            # If this is the context that the parent attached, the parent's span is still current.
            if not parent.recording and (parent.context is context or _is_current(parent, context)):
                if not (runtime.metrics.enabled and operation.name in MEASURED):
                    return None
                unrecorded = True
            if parent.instance is instance:
                if parent.join is not None and parent.operation is operation:
                    return parent.join(owner, asynchronous)
                if _is_covered(parent, operation, owner, asynchronous):
                    return None
        # Suppression is part of the context, and was checked when the parent attached it.
        unchanged = parent is not None and parent.context is context
        if not runtime.direct or not (unchanged or is_instrumentation_enabled()):
            return _begin_selected(
                operation,
                runtime,
                owner,
                asynchronous,
                instance,
                args,
                kwargs,
                context=context,
                unrecorded=unrecorded,
            )
        if parent is None:
            runtime.metrics.look_for_provider()
        call = runtime.call_type(operation, instance, args, kwargs, parent, owner, asynchronous)
        call.before = before
        return call if call.open(runtime, context, unrecorded) else None
    except BaseException as error:
        abandon(call)
        if is_programs(error):
            forget_our_frames(error)
            raise
        log_once(error)
        return None


def _begin_selected(
    operation: Operation,
    runtime: Runtime,
    owner: type,
    asynchronous: bool,
    instance: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    context: Context,
    unrecorded: bool,
) -> Call | CallPart | None:
    """`begin_call` if not all calls are recorded, or none are."""
    if not runtime.active or not is_instrumentation_enabled():
        return None
    chosen, selection = choose(runtime, operation, instance, args, kwargs, asynchronous, context)
    if isinstance(chosen, MutedCall):
        chosen.open(context)
        return chosen
    if chosen is None:
        return None
    parent: Any = context.get(CALL_KEY)
    if parent is None:
        runtime.metrics.look_for_provider()
    call = chosen(operation, instance, args, kwargs, parent, owner, asynchronous)
    call.selection, call.before = selection, get_current()
    try:
        return call if call.open(runtime, context, unrecorded) else None
    except BaseException:
        abandon(call)
        raise


def opened_call(_instance: Any, _args: Any, kwargs: Mapping[str, Any]) -> Call | MutedCall | None:
    """The call that `begin_call` has opened with these arguments, and has not returned.

    A signal handler may raise after a function has returned and before its result is assigned.
    """
    context = context_api.get_current()
    # Each call of a Python function has a dict of its own.
    for call in (context.get(CALL_KEY), context.get(MUTED_KEY)):
        if isinstance(call, (Call, MutedCall)) and call.kwargs is kwargs:
            return call
    return None


def _with_call_of_step(context: Context) -> Context:
    """``context``; within a step of a generator, with the call that returned it and its span."""
    origin = generators.origin_of_step(context)
    if origin is None:
        return context
    with_call = context_api.set_value(CALL_KEY, origin.get(CALL_KEY), context)
    with_call = context_api.set_value(MUTED_KEY, origin.get(MUTED_KEY), with_call)
    return set_span_in_context(get_current_span(origin), with_call)


def _is_current(parent: Call, context: Context) -> bool:
    """Whether the program has made no other span current since the call began."""
    return get_current_span(context) is parent.span


def _is_covered(parent: Call, operation: Operation, owner: type, asynchronous: bool) -> bool:
    """Whether the enclosing call of the same object already stands for this call."""
    if parent.operation is not operation:
        return False
    if parent.asynchronous and not asynchronous:
        return True  # an async method that delegates to the sync one of the same object
    if owner is object:
        return True  # a method that the traced method of the same object calls
    mro = type(parent.instance).__mro__
    # A class further up the MRO is reached through super(), so this is the same call, however often
    # it is repeated. Reaching the class where the call entered is a recursion.
    return parent.owner is not None and mro.index(owner) > mro.index(parent.owner)
