# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans around functions that are handed on for one use, where there is no attribute to patch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from opentelemetry.instrumentation.dspy._calls.begin import begin
from opentelemetry.instrumentation.dspy._calls.call import Operation, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame

Describe = Callable[..., tuple[Any, dict[str, Any]]]


def traced_function(
    _function: Callable[..., Any], operation: Operation, runtime: Runtime, describe: Describe
) -> Callable[..., Any]:
    """``_function`` with a span around each call.

    Args:
        _function: Any callable.
        operation: What the span stands for.
        runtime: Where the span goes.
        describe: Given the arguments of a call, returns `Call.instance` and `Call.kwargs`.
    """
    _hide, _describe = hide_frame, describe
    _begin = partial(begin, operation, runtime, object, False)

    def traced(*args: Any, **kwargs: Any) -> Any:
        _instance, _details = _describe(*args, **kwargs)
        _call = _begin(_instance, (), _details)
        try:
            _result = _function(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            if _call is not None:
                _call.close(None, _error)
            raise
        if _call is not None:
            _call.close(_result)
        return _result

    return as_dspy_frame(traced, _function)
