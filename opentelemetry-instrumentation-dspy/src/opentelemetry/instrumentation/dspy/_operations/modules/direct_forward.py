# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The hint for programs that call ``forward`` of a module instead of the module."""

from __future__ import annotations

import inspect
import logging
from types import FrameType
from typing import Any

import dspy

logger = logging.getLogger(__name__)

_NAMES = frozenset({"forward", "aforward"})
# Frames of this package, of DSPy's wrapper around a call, and of functions of the program.
_MAX_FRAMES = 16
_MAX_LOOKS = 64


class DirectForward:
    """One INFO line if a module called without a span calls others, whose traces are then apart.

    Args:
        traced: Whether such modules get spans, by the setting ``trace_direct_forward``.
    """

    def __init__(self, traced: bool) -> None:
        self._looks = 0 if traced else _MAX_LOOKS

    def look(self) -> None:
        """Look for such a module on the stack of an outermost call; only for the first calls."""
        if not self._looks or not logger.isEnabledFor(logging.INFO):
            return
        self._looks -= 1
        module = _caller()
        if module is None:
            return
        self._looks = 0
        logger.info(
            "%s.%s() was called directly, which makes no span: the calls inside of it become "
            "traces of their own. Call the module itself, or set trace_direct_forward=True or "
            "OTEL_INSTRUMENTATION_DSPY_TRACE_DIRECT_FORWARD=true.",
            *module,
        )


def _caller() -> tuple[str, str] | None:
    """Class and method of a module whose ``forward`` is on the stack; None if there is none."""
    frame: FrameType | None = inspect.currentframe()
    for _ in range(_MAX_FRAMES):
        if frame is None:
            return None
        code = frame.f_code
        if code.co_name in _NAMES and code.co_argcount:
            # A snapshot of all locals, which may keep them alive until the frame ends: so it is
            # taken of frames with such a name only, and for the first calls only.
            instance: Any = frame.f_locals.get(code.co_varnames[0])
            if isinstance(instance, dspy.Module):
                return type(instance).__name__, code.co_name
        frame = frame.f_back
    return None
