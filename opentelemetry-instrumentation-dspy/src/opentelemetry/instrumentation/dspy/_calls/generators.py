# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Generators that traced calls return: their work is done after the call, by whoever consumes them.

A step runs in the context of its consumer, which knows nothing of the call, and the generator must
stay the very object that the program made. So it is remembered which call returned it, and a call
that has none around it looks for such a generator on the stack.
"""

from __future__ import annotations

import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Span, get_current_span

GENERATORS = frozenset({types.GeneratorType, types.AsyncGeneratorType})

_IS_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class _Origin(NamedTuple):
    generator: Callable[[], Any]
    context: Context
    """That of the call which returned it."""
    around: Span
    """What was current around that call."""


live: dict[int, _Origin] = {}
"""The generators that may still be consumed, by id."""


def remember_generator(generator: Any, context: Context) -> None:
    """Remember which call returned a generator; of several that hand it on, the innermost.

    Args:
        generator: What the call returned.
        context: The context that the call had made current, which it is no more.
    """
    key = id(generator)
    origin = live.get(key)
    if origin is not None:
        live[key] = origin._replace(around=get_current_span())
        return
    live[key] = _Origin(weakref.ref(generator), context, get_current_span())
    weakref.finalize(generator, live.pop, key, None).atexit = False


def origin_of_step(context: Context) -> Context | None:
    """The context of the call whose generator takes a step on this stack; None if there is none.

    None, too, where a span is current that was not so around that call: one of the generator's own,
    or of its consumer, in which the step belongs.
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
    for origin in list(live.values()):
        generator = origin.generator()
        if _frame_of(generator) is frame:
            return origin
    return None


def _frame_of(generator: Any) -> types.FrameType | None:
    if isinstance(generator, types.GeneratorType):
        return generator.gi_frame if generator.gi_running else None
    if isinstance(generator, types.AsyncGeneratorType):
        return generator.ag_frame if generator.ag_running else None
    return None
