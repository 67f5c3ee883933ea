# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Work that DSPy distributes over threads: ``dspy.Parallel``, ``Module.batch`` and their executor.

``ParallelExecutor`` (used by Parallel, Module.batch, Evaluate and the optimizers) passes DSPy's
settings to its threads but not contextvars, in every version so far. Without a patch, each item
would become a separate trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._calls.propagation import bound_to_current_context
from opentelemetry.instrumentation.dspy._operations.evaluation.evaluate import ExampleSpans
from opentelemetry.instrumentation.dspy._patching.points import (
    FunctionPatch,
    PatchPoint,
    method_patch,
)


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of parallel work."""
    return [
        FunctionPatch(
            "dspy.utils.parallelizer",
            "ParallelExecutor.execute",
            _carrying_context,
            "calls in DSPy's threads become separate traces, and examples get no span",
        ),
        method_patch(
            "dspy.predict.parallel",
            "Parallel.forward",
            ParallelOperation(),
            "dspy.Parallel and Module.batch get no span",
        ),
    ]


def _carrying_context(_execute: Callable[..., Any], runtime: Runtime, owner: Any) -> Any:
    _hide, _bound_to, _spans = hide_frame, bound_to_current_context, ExampleSpans(runtime)

    def execute(self: Any, /, function: Callable[[Any], Any], data: Any) -> Any:
        try:
            return _execute(self, _bound_to(_spans.wrap(function, data)), data)
        except BaseException as _error:
            _hide(_error)
            raise

    return as_dspy_frame(execute, _execute)


class ParallelOperation(Operation):
    """One run of ``dspy.Parallel``, also below ``Module.batch``."""

    name = semconv.Operations.PARALLEL

    def start(self, call: Call) -> SpanStart:
        pairs = call.args[0] if call.args else call.kwargs.get("exec_pairs", ())
        threads = call.kwargs.get("num_threads") or call.instance.num_threads
        attributes: Attributes = {semconv.DSPY_OPERATION: self.name}
        if isinstance(pairs, Sized):  # DSPy rejects other values
            attributes[semconv.DSPY_PARALLEL_TASK_COUNT] = len(pairs)
        if isinstance(threads, int):
            attributes[semconv.DSPY_PARALLEL_NUM_THREADS] = threads
        return "parallel", attributes, INTERNAL

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        # The result is (results, failed examples, exceptions) if failed examples are requested.
        # Else the result of a failed task is None, which a program may also return.
        if call.instance.return_failed_examples:
            attributes[semconv.DSPY_PARALLEL_ERROR_COUNT] = len(result[1])
