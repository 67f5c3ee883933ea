# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The kinds of DSPy operations: for each, the patch points and the attributes of a call.

Each module has ``patch_points(runtime)``. The modules may import dspy, so they are imported only
after dspy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.instrumentation.dspy._calls.call import Runtime


def patch_points(runtime: Runtime) -> list[Any]:
    """All patch points, in the order of installation."""
    from opentelemetry.instrumentation.dspy._operations import (
        adapter,
        embedding,
        optimizer,
        persistence,
        retrieval,
        streaming,
    )
    from opentelemetry.instrumentation.dspy._operations.evaluation import evaluate
    from opentelemetry.instrumentation.dspy._operations.lm import language_model, typesafe
    from opentelemetry.instrumentation.dspy._operations.modules import module
    from opentelemetry.instrumentation.dspy._operations.parallel import executor, worker_threads
    from opentelemetry.instrumentation.dspy._operations.tools import interpreter, tool

    parts = (
        module,
        language_model,
        typesafe,
        adapter,
        tool,
        retrieval,
        embedding,
        interpreter,
        executor,
        worker_threads,
        evaluate,
        optimizer,
        streaming,
        persistence,
    )
    return [point for part in parts for point in part.patch_points(runtime)]
