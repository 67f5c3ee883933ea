# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Saving and loading of programs: events on the current span, not spans of their own.

Neither needs a span, but both tell which program later traces belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import get_current_span

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import Runtime
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch, PatchPoint
from opentelemetry.instrumentation.dspy._patching.replacements import observe_result


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of saving and loading."""
    base = "dspy.primitives.base_module"
    effect = "saving and loading programs leaves no event"
    return [
        FunctionPatch(
            base, "BaseModule.save", _recording(semconv.Events.PROGRAM_SAVED, _first), effect
        ),
        FunctionPatch(
            base, "BaseModule.load", _recording(semconv.Events.PROGRAM_LOADED, _first), effect
        ),
        # For whole programs: the function, and the name that DSPy exports.
        *(
            FunctionPatch(
                module, "load", _recording(semconv.Events.PROGRAM_LOADED, _result), effect
            )
            for module in ("dspy.utils.saving", "dspy")
        ),
    ]


def _first(_result: Any, module: Any, *_arguments: Any) -> Any:
    return module


def _result(result: Any, *_arguments: Any) -> Any:
    return result


def _recording(event: str, program_of: Callable[..., Any]) -> Callable[[Any, Runtime, Any], Any]:
    def make(original: Any, runtime: Runtime, owner: Any) -> Any:
        def record(*call: Any) -> None:
            if runtime.active and is_instrumentation_enabled():
                kind = type(program_of(*call)).__name__
                # Without the path, which may name a user or a customer.
                get_current_span().add_event(event, {semconv.DSPY_MODULE_TYPE: kind})

        return observe_result(original, record)

    return make
