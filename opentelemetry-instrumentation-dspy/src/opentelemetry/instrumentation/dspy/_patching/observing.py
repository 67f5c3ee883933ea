# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Functions of DSPy that are looked at and make no span: what they are given, what they return.

``note`` is telemetry code: what it raises is logged once and goes no further.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._guarding import guarded


def noting_call(_original: Callable[..., Any], _note: Callable[..., None]) -> Any:
    """``_original``; before each call ``_note(*args)``."""
    _guarded, _hide = guarded, hide_frame

    def noting(*args: Any, **kwargs: Any) -> Any:
        _guarded(_note, *args)
        try:
            return _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise

    return as_dspy_frame(noting, _original)


def noting_result(_original: Callable[..., Any], _note: Callable[..., None]) -> Any:
    """``_original``; after each call that returned ``_note(result, *args)``."""
    _guarded, _hide = guarded, hide_frame

    def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            _result = _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        _guarded(_note, _result, *args)
        return _result

    return as_dspy_frame(noting, _original)


def noting_async_result(_original: Callable[..., Any], _note: Callable[..., None]) -> Any:
    """`noting_result` for a coroutine function."""
    _guarded, _hide = guarded, hide_frame

    async def noting(*args: Any, **kwargs: Any) -> Any:
        try:
            _result = await _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        _guarded(_note, _result, *args)
        return _result

    return as_dspy_frame(noting, _original)
