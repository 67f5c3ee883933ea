# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The runs in MLflow that a span belongs to: one for each evaluation and optimizer around it.

A run is made when its first trace is delivered, which may be in another process, after this one was
killed. So a span carries all that is needed for that: which runs there are, and their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import orjson
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import format_span_id

from mlflow_bridge._spans.inheritance import is_example_trace
from mlflow_bridge._spans.names import RUNS
from opentelemetry.instrumentation.dspy.semconv import DSPY_OPERATION, Operations

_MAX_DEPTH: Final = 8
_MAX_PARENTS: Final = 1_000


class RunOfSpan(NamedTuple):
    """A run of an evaluation or optimizer.

    Attributes:
        key: The span id of the evaluation or optimizer, as 16 hexadecimal digits.
        name: The name of that span, and of the run.
    """

    key: str
    name: str


RunPath = tuple[RunOfSpan, ...]
"""Runs that contain one another, the outermost first."""


class RunPaths:
    """Puts the path of runs on spans that start.

    Args:
        open_span: Returns the open span of this process with an id.
        evaluations: Whether an evaluation is a run.
        compiles: Whether an optimizer is a run.
    """

    def __init__(
        self, open_span: Callable[[int], Span | None], *, evaluations: bool, compiles: bool
    ) -> None:
        self._open_span = open_span
        wanted = ((Operations.EVALUATE, evaluations), (Operations.COMPILE, compiles))
        self._runs = frozenset(operation for operation, is_wanted in wanted if is_wanted)

    def put(self, span: Span, _context: object = None) -> None:
        """Put the path on an evaluation, an optimizer, or the first span of an example."""
        attributes = span.attributes or {}
        is_run = attributes.get(DSPY_OPERATION) in self._runs
        if not is_run and not is_example_trace(attributes):
            return
        path = self._around(span)
        if is_run:
            key = format_span_id(span.get_span_context().span_id)
            path = (*path, RunOfSpan(key, span.name))
        if path:
            items = [list(run) for run in path[-_MAX_DEPTH:]]
            span.set_attribute(RUNS, orjson.dumps(items).decode())

    def _around(self, span: Span) -> RunPath:
        for enclosing in self._enclosing(span):
            path = run_path_of(enclosing.attributes)
            if path:
                return path
        return ()

    def _enclosing(self, span: Span) -> Iterator[Span]:
        """The open spans around a span, also those of the trace of its evaluation."""
        found: Span | None = span
        for _ in range(_MAX_PARENTS):
            found = self._above(found)
            if found is None:
                return
            yield found

    def _above(self, span: Span) -> Span | None:
        if span.parent is not None:
            return self._open_span(span.parent.span_id)
        if is_example_trace(span.attributes) and span.links:
            return self._open_span(span.links[0].context.span_id)
        return None


def run_path_of(attributes: Mapping[str, Any] | None) -> RunPath:
    """The path in attributes of a span; empty without one, or if it is damaged."""
    text = (attributes or {}).get(RUNS)
    if not isinstance(text, str):
        return ()
    try:
        parsed: Any = orjson.loads(text)
        items = cast("Sequence[Sequence[Any]]", parsed)
        return tuple(RunOfSpan(str(key), str(name)) for key, name in items)
    except (ValueError, TypeError):
        return ()
