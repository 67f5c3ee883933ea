# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Saving and loading programs: events on the span in which it happens, since neither is work that
a trace has to be read for, but both tell which program a later trace is of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import get_current_span

from opentelemetry.instrumentation.dspy.observing import noting_result
from opentelemetry.instrumentation.dspy.patching import FunctionPatch, PatchPoint
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_MODULE_TYPE,
    Events,
)
from opentelemetry.instrumentation.dspy.tracing import Runtime


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of saving and loading."""
    base = "dspy.primitives.base_module"
    effect = "saving and loading programs leaves no event"
    return [
        FunctionPatch(base, "BaseModule.save", _noting(Events.PROGRAM_SAVED), effect),
        FunctionPatch(base, "BaseModule.load", _noting(Events.PROGRAM_LOADED), effect),
    ]


def _noting(event: str) -> Callable[[Any, Runtime, Any], Any]:
    def make(original: Any, runtime: Runtime, owner: Any) -> Any:
        def note(_result: Any, module: Any, *_arguments: Any) -> None:
            if runtime.active and is_instrumentation_enabled():
                # No path: it may name a user or a customer.
                get_current_span().add_event(event, {DSPY_MODULE_TYPE: type(module).__name__})

        return noting_result(original, note)

    return make
