# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The OTel context: attached in another thread, and restored after a call."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from typing import Any

from opentelemetry import context as context_api
from opentelemetry.context import Context

from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._guarding import pass_on


def bound_to_current_context(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, run in the OTel context that is current now."""
    return bound_to_context(context_api.get_current(), function)


def bound_to_context(_context: Context, _function: Callable[..., Any]) -> Callable[..., Any]:
    """``_function``, run in an OTel context."""
    _attach, _detach, _hide = context_api.attach, context_api.detach, hide_frame

    def run(*args: Any, **kwargs: Any) -> Any:
        _token = _attach(_context)
        try:
            return _function(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        finally:
            _detach(_token)

    return as_dspy_frame(run, _function)


def restore_context(token: Token[Context]) -> None:
    """Undo the ``attach`` that returned the token; a second call does nothing."""
    # The API's detach() logs an error if the call is closed in another contextvars context, as
    # for a coroutine that is garbage-collected. There is nothing to restore then.
    try:
        token.var.reset(token)
    except (ValueError, RuntimeError) as error:
        pass_on(error)
