# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""An exception of the program on a span: its type and, if content is recorded, its message."""

from __future__ import annotations

from opentelemetry.trace import Span, Status, StatusCode

from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy._guarding import pass_by_value, pass_on
from opentelemetry.instrumentation.dspy.api import DSPyCall
from opentelemetry.instrumentation.dspy.semconv import (
    ERROR_TYPE,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)

_EVENT = "exception"


def error_type(error: BaseException) -> str:
    """The value of ``error.type``: the class, with its module unless it is a builtin."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def identity_of(error: BaseException) -> tuple[int, ...]:
    """An identity that distinguishes exceptions without keeping them or their frames alive.

    The address alone is not enough: a new exception is often allocated where a handled one was.
    """
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return (id(error),)
    return (id(error), id(step.tb_frame.f_code), step.tb_lasti)


def record_failure(
    span: Span,
    error: BaseException,
    content: ContentEncoder | None,
    call: DSPyCall,
    *,
    with_status: bool,
    with_event: bool,
    with_stack: bool,
) -> None:
    """Put status, ``error.type`` and an exception event on a span.

    Args:
        span: A recording span.
        error: What the operation raised.
        content: Bounds and redacts the message; None if no message is to be recorded, since
            exception messages contain the program's data.
        call: The operation.
        with_status: Whether the exception ends the operation; else there is only the event.
        with_event: Whether to add the event, which the span may have already.
        with_stack: Whether the event also has the stack.
    """
    kind = error_type(error)
    if with_status:
        span.set_attribute(ERROR_TYPE, kind)
    if content is None:
        if with_status:
            span.set_status(Status(StatusCode.ERROR))
        if with_event:
            span.add_event(_EVENT, {EXCEPTION_TYPE: kind})
        return
    _learn_secrets(call, content)
    message = content.message(_message(error))
    if with_status:
        span.set_status(Status(StatusCode.ERROR, f"{kind}: {message}"))
    if not with_event:
        return
    event = {EXCEPTION_TYPE: kind, EXCEPTION_MESSAGE: message}
    if with_stack:
        stack = _stacktrace(error, content)
        if stack is not None:
            event[EXCEPTION_STACKTRACE] = stack
    span.add_event(_EVENT, event)


def _learn_secrets(call: DSPyCall | None, content: ContentEncoder) -> None:
    # The message may repeat a key that an object in the chain of calls keeps in an attribute.
    while call is not None:
        content.secrets.learn_attributes(call.instance)
        call = call.parent


def _stacktrace(error: BaseException, content: ContentEncoder) -> str | None:
    try:
        return content.stacktrace(error)
    except Exception as fault:
        pass_on(fault)
        return None  # after infinite recursion, too little stack is left to format it


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as fault:
        pass_by_value(fault)
        return "[unreadable message]"
