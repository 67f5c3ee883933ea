# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Assessments and tags that a program sets, changes or deletes before their trace is stored.

``mlflow.log_feedback`` and ``mlflow.log_expectation`` on the active trace are kept by MLflow until
its own exporter stores the trace. Right after a call they would find no trace in the store, nor
would ``mlflow.set_trace_tag`` and the functions that change or delete, since the bridge stores
traces in the background. All of them use methods of MLflow's ``TracingClient``, which are replaced
here while MLflow's tracing is joined. A call for a trace that is not on its way in this process
reaches MLflow's method.

The constructor opens a SQL store, on the thread of the program and for minutes if the database is
down. It is replaced, so that the first method that needs the store opens it.

The class is not documented, but the methods are the same from MLflow 3.15 to 3.17. No other file
replaces them.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracing.client import TracingClient

from mlflow_bridge._config.tracking_uri import is_sql_uri
from mlflow_bridge._mlflow_tracing.assessment_records import (
    assessment_of,
    check_tag,
    record_of,
    refusal,
    updated,
    updates_of,
)
from mlflow_bridge._mlflow_tracing.kept_assessments import KeptAssessments
from mlflow_bridge._spans.annotation import Annotation

if TYPE_CHECKING:
    from mlflow_bridge._mlflow_tracing.spans import MLflowSpansProcessor

_logger = logging.getLogger(__name__)

_METHODS: Final = {
    "__init__": ("self", "tracking_uri"),
    "log_assessment": ("self", "trace_id", "assessment"),
    "get_assessment": ("self", "trace_id", "assessment_id"),
    "update_assessment": ("self", "trace_id", "assessment_id", "assessment"),
    "delete_assessment": ("self", "trace_id", "assessment_id"),
    "set_trace_tag": ("self", "trace_id", "key", "value"),
    "delete_trace_tag": ("self", "trace_id", "key"),
}
"""The replaced methods, and the parameters that they need to have."""

_MISSING: Final = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)

_originals: dict[str, Callable[..., Any]] = {}


def keep_annotations(processor: MLflowSpansProcessor) -> None:
    """Have assessments and tags of traces in flight delivered with their trace.

    Args:
        processor: Knows the traces.

    Raises:
        AttributeError: This version of MLflow does not have the methods.
        TypeError: They have other parameters.
    """
    release_annotations()
    for name, parameters in _METHODS.items():
        found = tuple(inspect.signature(getattr(TracingClient, name)).parameters)
        if found != parameters:
            raise TypeError(f"TracingClient.{name} has the parameters {', '.join(found)}")
    kept = _InFlight(processor)
    for name in _METHODS:
        original = _originals[name] = getattr(TracingClient, name)
        replacement = _constructor(original) if name == "__init__" else _method(original, kept)
        setattr(TracingClient, name, replacement)


def release_annotations() -> None:
    """Undo `keep_annotations`. May be repeated."""
    while _originals:
        setattr(TracingClient, *_originals.popitem())


def _constructor(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def construct(self: Any, tracking_uri: str | None = None) -> None:
        unopened = _Unopened()
        original(unopened, tracking_uri)
        self.tracking_uri = unopened.tracking_uri
        if not is_sql_uri(str(self.tracking_uri)):
            # Without access to the network. It raises for an address that MLflow does not know.
            _ = self.store

    return construct


class _Unopened:
    """Object that MLflow's constructor fills, with a store that it need not open."""

    store: Any = None
    tracking_uri: Any = None


def _method(original: Callable[..., Any], kept: _InFlight) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, trace_id: str, *args: Any, **kwargs: Any) -> Any:
        if not kept.takes(trace_id):
            return original(self, trace_id, *args, **kwargs)
        handler = getattr(kept, original.__name__)
        return handler(_Call(self, original, trace_id), *args, **kwargs)

    return method


class _Call:
    """A call of a replaced method for a trace in flight."""

    def __init__(self, client: Any, original: Callable[..., Any], trace_id: str) -> None:
        self.client = client
        self.trace_id = trace_id
        self.is_remote = not is_sql_uri(str(client.tracking_uri))
        self._original = original

    def pass_on(self, *args: Any) -> Any:
        """Call MLflow's method."""
        return self._original(self.client, self.trace_id, *args)

    def pass_on_with(self, store: Any, *args: Any) -> Any:
        """Call MLflow's method with another store than its own."""
        return self._original(_ClientOf(self.client, store), self.trace_id, *args)


class _ClientOf:
    """A ``TracingClient`` with another store."""

    def __init__(self, client: Any, store: Any) -> None:
        self._client = client
        self.store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class _TagStore:
    """The part of MLflow's store that its methods for tags use, for a trace in flight."""

    def __init__(self, call: _Call, annotate: Callable[[Annotation], None]) -> None:
        self._call = call
        self._annotate = annotate

    def set_trace_tag(self, trace_id: str, key: str, value: str) -> None:
        tag = check_tag(key, value, is_remote=self._call.is_remote)
        self._annotate(Annotation(trace_id, tag=tag, made_at=time.time()))

    def delete_trace_tag(self, trace_id: str, key: str) -> None:
        # Whether the trace has the tag is not known: the bridge adds tags in the background.
        self._annotate(Annotation(trace_id, deleted_tag=str(key), made_at=time.time()))


class _InFlight:
    """MLflow's methods for a trace that is not stored yet, with the same results and exceptions."""

    def __init__(self, processor: MLflowSpansProcessor) -> None:
        self._processor = processor
        self._assessments = KeptAssessments()

    def takes(self, trace_id: object) -> bool:
        """Whether the trace is on its way in this process."""
        return isinstance(trace_id, str) and self._processor.takes_annotation(trace_id)

    def set_trace_tag(self, call: _Call, key: Any, value: Any) -> None:
        # MLflow's method sets the tag of an open trace in memory, from where it goes on the first
        # span of the trace.
        call.pass_on_with(_TagStore(call, self._processor.annotate), key, value)

    def delete_trace_tag(self, call: _Call, key: Any) -> None:
        call.pass_on_with(_TagStore(call, self._processor.annotate), key)

    def log_assessment(self, call: _Call, assessment: Any) -> Any:
        assessment.trace_id = call.trace_id
        made = copy.copy(assessment)
        if made.assessment_id is None:
            # In MLflow's form. Known from now on, so that a repeated write does not store it twice.
            made.assessment_id = f"a-{uuid4().hex}"
        record = record_of(made, is_remote=call.is_remote)
        self._check_overridden(call, made.overrides)
        self._assessments.put(call.trace_id, record)
        self._annotate(call, record=record)
        return made

    def get_assessment(self, call: _Call, assessment_id: Any) -> Any:
        record = self._assessments.get(call.trace_id, assessment_id)
        if record is None:
            return self._pass_on(call, assessment_id)
        return assessment_of(record, call.trace_id)

    def update_assessment(self, call: _Call, assessment_id: Any, assessment: Any) -> Any:
        record = self._assessments.get(call.trace_id, assessment_id)
        if record is None:
            return self._pass_on(call, assessment_id, assessment)
        update = updates_of(assessment, is_remote=call.is_remote)
        now = int(time.time() * 1000)
        record = updated(record, update, now, is_remote=call.is_remote)
        self._assessments.put(call.trace_id, record)
        self._annotate(call, update={"assessment_id": assessment_id, **update})
        return assessment_of(record, call.trace_id)

    def delete_assessment(self, call: _Call, assessment_id: Any) -> None:
        if self._assessments.remove(call.trace_id, assessment_id) is None:
            call.pass_on(assessment_id)
        else:
            self._annotate(call, deleted_assessment=assessment_id)

    def _check_overridden(self, call: _Call, assessment_id: Any) -> None:
        """Have MLflow look for an overridden assessment that was not logged here.

        Raises:
            MlflowException: It does not exist.
        """
        if not assessment_id or self._assessments.get(call.trace_id, assessment_id) is not None:
            return
        try:
            call.client.store.get_assessment(call.trace_id, assessment_id)
        except Exception as error:
            if getattr(error, "error_code", None) == _MISSING:
                raise _no_assessment(call, assessment_id) from error
            _logger.debug("An overridden assessment cannot be looked up", exc_info=True)

    def _pass_on(self, call: _Call, assessment_id: Any, *args: Any) -> Any:
        """Have MLflow handle an assessment that was not logged here, which it may have."""
        try:
            return call.pass_on(assessment_id, *args)
        except MlflowException as error:
            if error.error_code != _MISSING:
                raise
            raise _no_assessment(call, assessment_id) from error

    def _annotate(self, call: _Call, **content: Any) -> None:
        self._processor.annotate(Annotation(call.trace_id, made_at=time.time(), **content))


def _no_assessment(call: _Call, assessment_id: Any) -> MlflowException:
    # MLflow may say that there is no such trace, which is not stored yet.
    said = f"Assessment with ID '{assessment_id}' not found for trace '{call.trace_id}'"
    return refusal(said, RESOURCE_DOES_NOT_EXIST, is_remote=call.is_remote)
