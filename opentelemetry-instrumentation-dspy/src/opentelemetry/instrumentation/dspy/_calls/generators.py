# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Generators that traced calls return: their work is done after the call, by their consumer.

A step runs in the context of the consumer, which does not contain the call, and the generator must
remain the same object. So this module remembers which call returned a generator. A call without an
enclosing call looks for such a generator on the stack.
"""

from __future__ import annotations

import inspect
import types
import weakref
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span, get_current_span

GENERATORS = frozenset({types.GeneratorType, types.AsyncGeneratorType})

_IS_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class _Origin(NamedTuple):
    context: Context
    """The context of the call that returned the generator."""
    around: Span
    """The span that was current around that call."""


live: dict[weakref.ref[Any], _Origin] = {}
"""Generators that may still be consumed."""


def remember_generator(generator: Any, context: Context) -> None:
    """Remember which call returned a generator; if several pass it on, the innermost.

    Args:
        generator: What the call returned.
        context: The context that was current during the call.
    """
    known = weakref.ref(generator)
    origin = live.get(known)
    if origin is not None:
        live[known] = origin._replace(around=get_current_span())
        return
    # Without Python code: what a signal handler raises while that runs at the end of an object is
    # lost.
    live[weakref.ref(generator, live.pop)] = _Origin(context, get_current_span())


def origin_of_step(context: Context) -> Context | None:
    """The context of the call whose generator takes a step on this stack; None without such a step.

    Also None if another span is current now than around that call: the step then belongs to
    that span (the generator's own or its consumer's).
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_flags & _IS_GENERATOR:
            origin = _origin_of(frame)
            if origin is not None:
                current = get_current_span(context)
                valid = current.get_span_context().is_valid
                return None if valid and current is not origin.around else origin.context
        frame = frame.f_back
    return None


def _origin_of(frame: types.FrameType) -> _Origin | None:
    for generator, origin in list(live.items()):
        if _frame_of(generator()) is frame:
            return origin
    return None


def _frame_of(generator: Any) -> types.FrameType | None:
    if isinstance(generator, types.GeneratorType):
        return generator.gi_frame if generator.gi_running else None
    if isinstance(generator, types.AsyncGeneratorType):
        return generator.ag_frame if generator.ag_running else None
    return None
