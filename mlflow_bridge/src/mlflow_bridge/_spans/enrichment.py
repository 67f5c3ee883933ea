# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that are known only at a span's start, on the caller's thread."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import Span
from opentelemetry.trace import get_current_span

from mlflow_bridge._config.base import report_once
from mlflow_bridge._process.interruption import belongs_to_program
from mlflow_bridge._spans.inheritance import inherited_by, is_example_trace
from mlflow_bridge._spans.local_root import has_absent_parent, open_local_root
from mlflow_bridge._spans.names import (
    EXPERIMENT_ID,
    MODEL_ID,
    SOURCE_RUN,
    TRACE_METADATA_PREFIX,
    TRACE_NAME,
    TRACE_TAG_PREFIX,
)
from mlflow_bridge._spans.run_path import RunPaths
from mlflow_bridge._spans.trace_context import (
    TRACE_CONTEXT_KEY,
    TraceContext,
    current_trace_context,
    identity_in,
)
from opentelemetry.instrumentation.dspy.semconv import (
    GEN_AI_CONVERSATION_ID,
    GEN_AI_OPERATION_NAME,
    SESSION_ID,
    GenAIOperations,
)

_INFERENCES = frozenset({GenAIOperations.CHAT, GenAIOperations.TEXT_COMPLETION})

_logger = logging.getLogger(__name__)

_MODEL_VARIABLE: Final = "MLFLOW_ACTIVE_MODEL_ID"
"""MLflow's own variable."""

_TOO_LATE: Final = (
    "trace_context() was entered inside of a trace whose first span has ended: name, tags, "
    "metadata, experiment and run have no effect on the trace. Enter it before that span ends."
)
_IN_ANOTHER_EXPERIMENT: Final = (
    "trace_context(experiment_id=...) has no effect inside of a running trace, which MLflow leaves "
    "in the experiment of its first spans. Enter it before the trace's first span starts: in a web "
    "service, in a middleware around the instrumentation of the web framework."
)


class Enrichment:
    """Enrichment of each local root with session, user, tags, metadata, active run and model.

    A local root has no parent, a remote parent, or an absent parent, which `note_absent_parent` has
    marked before. Values come from `mlflow_bridge.trace_context`, and otherwise from the baggage
    entries ``session.id``, ``user.id`` and ``gen_ai.conversation.id``. An attribute that the span
    was started with is left alone. Session, user and conversation of a ``trace_context`` inside of
    a running trace go on the spans directly below it: MLflow takes them from any span. The
    conversation also goes on each call of a model. MLflow takes tags and run from the root only, so
    they go on the local root while that is open. If a root
    names an experiment, all spans below it name the same experiment: MLflow puts a trace into the
    experiment of its first stored spans, and the root is stored last.

    ``mlflow`` is asked for its run and model only if the program has imported it.

    Args:
        open_span: Returns the open span of this process with an id.
        tags: Tags of every trace, unless the program gives the trace others.
        metadata: Metadata of every trace, in the same way.
    """

    def __init__(
        self,
        open_span: Callable[[int], Span | None] = lambda _: None,
        tags: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._open_span = open_span
        self.put_on_every_trace(tags or {}, metadata or {})
        self._run_paths: RunPaths | None = None
        # Saves the look at every parent until a root has named an experiment.
        self._has_placed = False

    def put_on_every_trace(self, tags: Mapping[str, str], metadata: Mapping[str, str]) -> None:
        """Put these tags and metadata on the traces that begin from now on, and no others."""
        self._of_every_trace = trace_attributes(tags, metadata)

    def log_runs(self, *, evaluations: bool, compiles: bool) -> None:
        """Let evaluations and optimizers that begin from now on be runs in MLflow, or not."""
        self._run_paths = None
        if evaluations or compiles:
            self._run_paths = RunPaths(self._open_span, evaluations=evaluations, compiles=compiles)

    def enrich(self, span: Span, context: Context | None) -> bool:
        """Set the known attributes, on the thread that starts the span. Never raises.

        Args:
            span: A span that is being started.
            context: The context that `SpanProcessor.on_start` got.

        Returns:
            Whether the span is a local root.
        """
        parent = span.parent
        if self._run_paths is not None:
            _guarded(self._run_paths.put, span, context)
        if parent is None or parent.is_remote or has_absent_parent(span):
            _guarded(_enrich_root, span, context)
            if is_example_trace(span.attributes):
                _guarded(self._inherit, span, context)
            if self._of_every_trace:
                _guarded(_set_missing, span, self._of_every_trace)
            if EXPERIMENT_ID in (span.attributes or {}):
                self._has_placed = True
            return True
        if self._has_placed:
            _guarded(_follow_parent, span, context)
        known = get_current() if context is None else context
        values: Any = known.get(TRACE_CONTEXT_KEY)
        if values is not None:
            if values.entered_in == parent.span_id:
                _guarded(self._enrich_nested, span, values)
            elif values.conversation_id is not None:
                _guarded(_enrich_inference, span, values)
        if GEN_AI_CONVERSATION_ID in (span.attributes or {}):
            # MLflow would take the conversation for the session.
            _guarded(_add_session, span, context)
        return False

    def _inherit(self, span: Span, _context: Context | None) -> None:
        _set_missing(span, inherited_by(span, self._open_span))

    def _enrich_nested(self, span: Span, values: TraceContext) -> None:
        _set_missing(span, values.identity())
        if values.tags or values.metadata or values.own_run_id or values.experiment_id:
            _enrich_running(open_local_root(span, self._open_span), values)


def _guarded(enrich: Callable[[Span, Any], None], span: Span, source: Any) -> None:
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
        attributes.update(trace_attributes(values.tags, values.metadata))
        if is_example_trace(span.attributes):
            attributes.pop(TRACE_NAME, None)  # the name of the evaluation
        if values.experiment_id is not None:
            attributes[EXPERIMENT_ID] = values.experiment_id
    run_id = (values and values.run_id) or _active_run_id()
    if run_id is not None:
        attributes[SOURCE_RUN] = run_id
    model_id = _active_model_id()
    if model_id is not None:
        attributes[MODEL_ID] = model_id
    _set_missing(span, attributes)


def trace_attributes(tags: Mapping[str, str], metadata: Mapping[str, str]) -> dict[str, str]:
    """The attributes of a local root from which its trace gets tags and metadata."""
    attributes = {TRACE_TAG_PREFIX + key: tag for key, tag in tags.items()}
    attributes.update({TRACE_METADATA_PREFIX + key: value for key, value in metadata.items()})
    return attributes


def _follow_parent(span: Span, context: Context | None) -> None:
    parent = get_current_span(context)
    if isinstance(parent, Span):
        experiment_id = (parent.attributes or {}).get(EXPERIMENT_ID)
        if experiment_id is not None:
            _set_missing(span, {EXPERIMENT_ID: str(experiment_id)})


def _enrich_running(root: Span | None, values: TraceContext) -> None:
    """Give the local root of a running trace what a block inside of the trace says."""
    if root is None:
        report_once(_TOO_LATE)
        return
    changes = trace_attributes(
        {key: values.tags[key] for key in values.own_tags},
        {key: values.metadata[key] for key in values.own_metadata},
    )
    if values.own_run_id is not None:
        changes[SOURCE_RUN] = values.own_run_id
    root.set_attributes(changes)
    _set_missing(root, trace_attributes(values.tags, values.metadata))
    placed = (root.attributes or {}).get(EXPERIMENT_ID)
    if values.experiment_id is not None and placed != values.experiment_id:
        report_once(_IN_ANOTHER_EXPERIMENT)


def _add_session(span: Span, context: Context | None) -> None:
    session_id = identity_in(context).get(SESSION_ID)
    if session_id is not None:
        _set_missing(span, {SESSION_ID: session_id})


def _enrich_inference(span: Span, values: TraceContext) -> None:
    # The GenAI conventions want it on each call of a model, for backends that look at one span.
    if (span.attributes or {}).get(GEN_AI_OPERATION_NAME) in _INFERENCES:
        _set_missing(span, {GEN_AI_CONVERSATION_ID: str(values.conversation_id)})


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


def _active_model_id() -> str | None:
    """Id of the logged model that is active in this thread (``mlflow.set_active_model``)."""
    mlflow = sys.modules.get("mlflow")
    if mlflow is None:
        return os.environ.get(_MODEL_VARIABLE) or None
    # Another thread may be in the middle of importing mlflow: the function is missing then.
    active_model = getattr(mlflow, "get_active_model_id", None)
    return None if active_model is None else cast("str | None", active_model())
