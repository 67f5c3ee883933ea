# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that are known only at a span's start, on the caller's thread."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, cast

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import get_current_span

from mlflow_bridge._process.interruption import belongs_to_program
from mlflow_bridge._spans.local_root import has_absent_parent
from mlflow_bridge._spans.names import EXPERIMENT_ID, SOURCE_RUN, TRACE_TAG_PREFIX
from mlflow_bridge._spans.trace_context import (
    TRACE_CONTEXT_KEY,
    TraceContext,
    current_trace_context,
    identity_in,
)

_logger = logging.getLogger(__name__)


class Enrichment:
    """Enrichment of each local root with MLflow's active run, session, user and tags.

    A local root has no parent, a remote parent, or an absent parent, which `note_absent_parent` has
    marked before. Values come from `mlflow_bridge.trace_context`, and otherwise from the baggage
    entries ``session.id``, ``user.id`` and ``gen_ai.conversation.id``. An attribute that the span
    was started with is left alone. Session, user and conversation of a ``trace_context`` inside of
    a running trace go on the spans directly below it: MLflow takes them from any span. If a root
    names an experiment, all spans below it name the same experiment: MLflow puts a trace into the
    experiment of its first stored spans, and the root is stored last.

    ``mlflow`` is asked for its run only if the program has imported it.
    """

    def __init__(self) -> None:
        # Saves the look at every parent until a root has named an experiment.
        self._has_placed = False

    def enrich(self, span: Span, context: Context | None) -> bool:
        """Set the known attributes, on the thread that starts the span. Never raises.

        Args:
            span: A span that is being started.
            context: The context that `SpanProcessor.on_start` got.

        Returns:
            Whether the span is a local root.
        """
        parent = span.parent
        if parent is None or parent.is_remote or has_absent_parent(span):
            _guarded(_enrich_root, span, context)
            if EXPERIMENT_ID in (span.attributes or {}):
                self._has_placed = True
            return True
        if self._has_placed:
            _guarded(_follow_parent, span, context)
        known = get_current() if context is None else context
        values: Any = known.get(TRACE_CONTEXT_KEY)
        if values is not None and values.entered_in == parent.span_id:
            _guarded(_enrich_nested, span, values)
        return False


def _guarded(enrich: Callable[[Span, Any], None], span: Span, source: object) -> None:
    try:
        enrich(span, source)
    except Exception as error:
        if belongs_to_program(error):
            raise
        _logger.debug("A span could not be enriched", exc_info=True)


def _enrich_root(span: Span, context: Context | None) -> None:
    attributes = identity_in(context)
    values = current_trace_context(context)
    if values is not None:
        attributes.update({TRACE_TAG_PREFIX + key: tag for key, tag in values.tags.items()})
        if values.experiment_id is not None:
            attributes[EXPERIMENT_ID] = values.experiment_id
    run_id = (values and values.run_id) or _active_run_id()
    if run_id is not None:
        attributes[SOURCE_RUN] = run_id
    _set_missing(span, attributes)


def _follow_parent(span: Span, context: Context | None) -> None:
    parent = get_current_span(context)
    if isinstance(parent, Span):
        experiment_id = (parent.attributes or {}).get(EXPERIMENT_ID)
        if experiment_id is not None:
            _set_missing(span, {EXPERIMENT_ID: str(experiment_id)})


def _enrich_nested(span: Span, values: TraceContext) -> None:
    _set_missing(span, values.identity())


def _set_missing(span: Span, attributes: dict[str, str]) -> None:
    present = span.attributes or {}
    missing = {key: value for key, value in attributes.items() if key not in present}
    if missing:
        span.set_attributes(missing)


def _active_run_id() -> str | None:
    """Id of the run that is active in this thread, as ``mlflow.active_run`` returns it."""
    mlflow = sys.modules.get("mlflow")
    # Another thread may be in the middle of importing mlflow: the function is missing then.
    active_run = getattr(mlflow, "active_run", None)
    if active_run is None:
        return None
    run = active_run()
    return None if run is None else cast("str", run.info.run_id)
