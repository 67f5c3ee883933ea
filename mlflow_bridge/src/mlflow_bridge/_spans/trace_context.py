# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values of a trace that only the program knows: session, user, tags."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from opentelemetry import baggage
from opentelemetry.context import Context, attach, create_key, detach, get_current, get_value
from opentelemetry.context import set_value as with_value
from opentelemetry.trace import get_current_span

from mlflow_bridge._config.base import ConfigurationError
from mlflow_bridge._spans.names import TRACE_NAME_TAG
from opentelemetry.instrumentation.dspy import semconv

TRACE_CONTEXT_KEY: Final = create_key("mlflow-bridge-trace-context")

_IDENTITY: Final = (semconv.SESSION_ID, semconv.USER_ID, semconv.GEN_AI_CONVERSATION_ID)


@dataclass(frozen=True)
class TraceContext:
    """The values of the innermost `trace_context`, with those of the outer ones merged in."""

    session_id: str | None = None
    user_id: str | None = None
    conversation_id: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    own_tags: frozenset[str] = frozenset()
    """Keys of the tags that the innermost block gives itself."""
    own_run_id: str | None = None
    """The run, if the innermost block gives it itself."""
    entered_in: int = 0
    """Id of the span that was current on entry; 0 if no span was current."""

    def identity(self) -> dict[str, str]:
        """The values of session, user and conversation that are known, by their attributes."""
        found = zip(_IDENTITY, (self.session_id, self.user_id, self.conversation_id), strict=True)
        return {key: value for key, value in found if value is not None}


@contextmanager
def trace_context(
    *,
    session_id: str | None = None,
    user_id: str | None = None,
    conversation_id: str | None = None,
    name: str | None = None,
    tags: Mapping[str, object] | None = None,
    experiment_id: str | None = None,
    run_id: str | None = None,
) -> Generator[None, None, None]:
    """Set session, user, tags, experiment and run of the traces that start in this block.

    The values travel in the OpenTelemetry context, so they reach the same threads and tasks as the
    trace itself. Blocks may be nested: values that an inner block leaves out come from the outer
    block. In a block that is entered inside a running trace, below a span of a web framework for
    example, the first span that starts directly below carries the values to the trace: name, tags
    and run go on the trace's first span of this process, which must be open. The experiment can
    only be given before that span starts, since MLflow leaves a trace where its first spans are.

    Args:
        session_id: Groups traces into a session, at most 250 characters (``session.id``).
        user_id: The user of the program (``user.id``).
        conversation_id: ``gen_ai.conversation.id`` of the GenAI conventions.
        name: Name of the trace in MLflow, instead of the program's name.
        tags: Tags of the trace in MLflow. Values that are not strings become strings.
        experiment_id: Id of the experiment that the traces go to, instead of the configured
            experiment. It must exist. MLflow keeps a trace in the experiment of its first spans, so
            all spans of the trace carry the id. A number, as text or as int.
        run_id: Id of the run that the traces are linked to, instead of MLflow's active run. The run
            does not choose the experiment.

    Raises:
        ConfigurationError: The experiment id is not a number.

    Example:
        >>> with trace_context(session_id="chat-7", tags={"channel": "web"}):
        ...     program(question="...")  # doctest: +SKIP
    """
    outer = current_trace_context() or TraceContext()
    own = {str(key): str(value) for key, value in (tags or {}).items()}
    if name is not None:
        own[TRACE_NAME_TAG] = name
    if experiment_id is not None:
        experiment_id = _checked_id(experiment_id)
    inner = TraceContext(
        session_id=outer.session_id if session_id is None else session_id,
        user_id=outer.user_id if user_id is None else user_id,
        conversation_id=outer.conversation_id if conversation_id is None else conversation_id,
        experiment_id=outer.experiment_id if experiment_id is None else experiment_id,
        run_id=outer.run_id if run_id is None else run_id,
        tags={**outer.tags, **own},
        own_tags=frozenset(own),
        own_run_id=run_id,
        entered_in=get_current_span().get_span_context().span_id,
    )
    entered = with_value(TRACE_CONTEXT_KEY, inner)
    token = attach(entered)
    try:
        yield
    finally:
        # A generator may be closed in another context than the context of its start. Then there is
        # nothing to restore, and detaching would log an error.
        if get_current() is entered:
            detach(token)


def _checked_id(experiment_id: object) -> str:
    """The id of an experiment as text.

    Raises:
        ConfigurationError: It is not a number.
    """
    text = str(experiment_id)
    if text.isascii() and text.isdigit():
        return text
    raise ConfigurationError(
        f"experiment_id of trace_context() is {experiment_id!r}; accepted: the id of an "
        "experiment, which is a number, and not its name. "
        "mlflow.get_experiment_by_name(name).experiment_id is the id",
        fields=("experiment_id",),
    )


def current_trace_context(context: Context | None = None) -> TraceContext | None:
    """The values of the innermost block around the current code, or in ``context``."""
    values: Any = get_value(TRACE_CONTEXT_KEY, context)
    return values


def identity_in(context: Context | None) -> dict[str, str]:
    """Session, user and conversation from `trace_context`; missing values from baggage."""
    entries = baggage.get_all(context)
    known = {key: str(entries[key]) for key in _IDENTITY if entries.get(key) is not None}
    values = current_trace_context(context)
    return known if values is None else {**known, **values.identity()}
