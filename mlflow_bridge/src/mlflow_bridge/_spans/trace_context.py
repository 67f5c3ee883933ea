# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values of a trace that only the program knows: session, user, tags, metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import Token
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar, cast

from opentelemetry import baggage
from opentelemetry.context import Context, attach, create_key, detach, get_current, get_value
from opentelemetry.context import set_value as with_value
from opentelemetry.trace import get_current_span

from mlflow_bridge._config.base import ConfigurationError
from mlflow_bridge._spans.enclosed_calls import enclosed
from mlflow_bridge._spans.names import TRACE_NAME_TAG
from opentelemetry.instrumentation.dspy import semconv

TRACE_CONTEXT_KEY: Final = create_key("mlflow-bridge-trace-context")

_IDENTITY: Final = (semconv.SESSION_ID, semconv.USER_ID, semconv.GEN_AI_CONVERSATION_ID)
_INHERITED: Final = ("session_id", "user_id", "conversation_id", "experiment_id", "run_id")
"""Fields that an inner block takes from the outer block, unless it has a value itself."""

_Function = TypeVar(
    "_Function",
    bound="Callable[..., object] | staticmethod[..., object] | classmethod[Any, ..., object]",
)


@dataclass(frozen=True)
class TraceContext:
    """The values of the innermost `trace_context`, with those of the outer ones merged in."""

    session_id: str | None = None
    user_id: str | None = None
    conversation_id: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    own_tags: frozenset[str] = frozenset()
    """Keys of the tags that the innermost block gives itself."""
    own_metadata: frozenset[str] = frozenset()
    """Keys of the metadata that the innermost block gives itself."""
    own_run_id: str | None = None
    """The run, if the innermost block gives it itself."""
    entered_in: int = 0
    """Id of the span that was current on entry; 0 if no span was current."""

    def identity(self) -> dict[str, str]:
        """The values of session, user and conversation that are known, by their attributes."""
        found = zip(_IDENTITY, (self.session_id, self.user_id, self.conversation_id), strict=True)
        return {key: value for key, value in found if value is not None}


class TraceContextBlock(AbstractContextManager[None]):
    """The block that `trace_context` makes; a decorator of any callable, too.

    As a decorator, it encloses each call, the coroutine that a call returns, and each step of a
    generator or asynchronous generator; see `enclosed`.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        """
        Args:
            values: The values of the block by name.
        """
        self._own = TraceContext(**values)
        # By context: several threads and tasks may be in the block at the same time.
        self._entered: dict[int, tuple[Context, Token[Context]]] = {}

    def __enter__(self) -> None:
        entered = with_value(TRACE_CONTEXT_KEY, _inside(current_trace_context(), self._own))
        self._entered[id(entered)] = entered, attach(entered)

    def __exit__(self, *exception: object) -> None:
        current = get_current()
        # A generator may be closed in another context than the context of its start. Then there is
        # nothing to restore, and detaching would log an error.
        entered, token = self._entered.pop(id(current), (None, None))
        if token is not None and entered is current:
            detach(token)

    def __call__(self, function: _Function) -> _Function:
        """Enclose every call of a callable in a block of its own; see `enclosed`."""
        own = vars(self._own)
        return cast("_Function", enclosed(function, lambda: TraceContextBlock(own)))


def _inside(outer: TraceContext | None, own: TraceContext) -> TraceContext:
    """The values of a block inside of another block, at its entry."""
    values = replace(own, entered_in=get_current_span().get_span_context().span_id)
    if outer is None:
        return values
    inherited = {name: getattr(outer, name) for name in _INHERITED if getattr(own, name) is None}
    return replace(
        values,
        **inherited,
        tags={**outer.tags, **own.tags},
        metadata={**outer.metadata, **own.metadata},
    )


def trace_context(
    *,
    session_id: str | Sequence[str] | None = None,
    user_id: str | None = None,
    conversation_id: str | None = None,
    name: str | None = None,
    tags: Mapping[str, object] | None = None,
    metadata: Mapping[str, object] | None = None,
    experiment_id: str | None = None,
    run_id: str | None = None,
) -> TraceContextBlock:
    """Set session, user, tags, metadata, experiment and run of the traces that start in this block.

    The values travel in the OpenTelemetry context, so they reach the same threads and tasks as the
    trace itself. Blocks may be nested: values that an inner block leaves out come from the outer
    block. In a block that is entered inside a running trace, below a span of a web framework for
    example, the first span that starts directly below carries the values to the trace: name, tags,
    metadata and run go on the trace's first span of this process, which must be open. The
    experiment can only be given before that span starts, since MLflow leaves a trace where its
    first spans are.

    As a decorator, the block encloses every call of a callable, and the coroutine or generator that
    the call returns.

    Args:
        session_id: Groups traces into a session, at most 250 characters (``session.id``). Several
            ids are stored as a JSON array.
        user_id: The user of the program (``user.id``).
        conversation_id: ``gen_ai.conversation.id`` of the GenAI conventions.
        name: Name of the trace in MLflow, instead of the program's name.
        tags: Tags of the trace in MLflow, which can be changed later. Values that are not strings
            become strings.
        metadata: Metadata of the trace in MLflow, which cannot be changed later; searched by
            ``metadata.<key>``. Values that are not strings become strings. MLflow takes metadata in
            a write of its own, after the spans.
        experiment_id: Id of the experiment that the traces go to, instead of the configured
            experiment. It must exist. MLflow keeps a trace in the experiment of its first spans, so
            all spans of the trace carry the id. A number, as text or as int.
        run_id: Id of the run that the traces are linked to, instead of MLflow's active run. The run
            does not choose the experiment.

    Returns:
        A context manager and decorator.

    Raises:
        ConfigurationError: The experiment id is not a number.

    Example:
        >>> with trace_context(session_id="chat-7", tags={"channel": "web"}):
        ...     program(question="...")  # doctest: +SKIP
    """
    own_tags = texts_of(tags)
    if name is not None:
        own_tags[TRACE_NAME_TAG] = name
    if experiment_id is not None:
        experiment_id = _checked_id(experiment_id)
    own_metadata = texts_of(metadata)
    return TraceContextBlock(
        {
            "session_id": session_text(session_id),
            "user_id": user_id,
            "conversation_id": conversation_id,
            "experiment_id": experiment_id,
            "run_id": run_id,
            "tags": own_tags,
            "metadata": own_metadata,
            "own_tags": frozenset(own_tags),
            "own_metadata": frozenset(own_metadata),
            "own_run_id": run_id,
        }
    )


def texts_of(items: Mapping[str, object] | None) -> dict[str, str]:
    """The keys and values of tags or metadata as text."""
    return {str(key): str(value) for key, value in (items or {}).items()}


def session_text(session_id: str | Sequence[str] | None) -> str | None:
    """A session id as text; several ids as a JSON array."""
    if session_id is None or isinstance(session_id, str):
        return session_id
    # An id of another type, such as a UUID or a number, is a single id.
    if not isinstance(cast("object", session_id), (list, tuple)):
        return str(session_id)
    return json.dumps([str(each) for each in session_id], ensure_ascii=False)


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
