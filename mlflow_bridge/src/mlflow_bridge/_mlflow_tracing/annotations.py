# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Assessments and tags that a program logs before their trace is stored.

``mlflow.log_feedback`` and ``mlflow.log_expectation`` on the active trace are kept by MLflow until
its own exporter stores the trace. Right after a call they would find no trace in the store, nor
would ``mlflow.set_trace_tag``, since the bridge stores traces in the background. All of them use
two methods of MLflow's ``TracingClient``, which are replaced here while MLflow's tracing is joined.
A call for a trace that is not on its way in this process reaches MLflow's method.

The class is not documented, but the methods are the same from MLflow 3.15 to 3.17. No other file
replaces them.
"""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import orjson
from mlflow.tracing.client import TracingClient
from mlflow.utils.mlflow_tags import IMMUTABLE_TAGS

from mlflow_bridge._spans.annotation import Annotation

if TYPE_CHECKING:
    from mlflow_bridge._mlflow_tracing.spans import MLflowSpansProcessor

_logger = logging.getLogger(__name__)

_METHODS: Final = {
    "log_assessment": ("self", "trace_id", "assessment"),
    "set_trace_tag": ("self", "trace_id", "key", "value"),
}
"""The replaced methods, and the parameters that they need to have."""

_MAX_KEY: Final = 250
_MAX_VALUE: Final = 4096

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
    for name, kept in (("log_assessment", _kept_assessment), ("set_trace_tag", _kept_tag)):
        _originals[name] = getattr(TracingClient, name)
        setattr(TracingClient, name, _replacement(_originals[name], processor, kept))


def release_annotations() -> None:
    """Undo `keep_annotations`. May be repeated."""
    while _originals:
        setattr(TracingClient, *_originals.popitem())


def _replacement(
    original: Callable[..., Any],
    processor: MLflowSpansProcessor,
    kept: Callable[..., tuple[Annotation, Any] | None],
) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(self: Any, trace_id: str, *args: Any, **kwargs: Any) -> Any:
        found = None
        try:
            if processor.takes_annotation(trace_id):
                found = kept(processor, trace_id, *args, **kwargs)
        # MLflow's own method then reports what is wrong with the values.
        except Exception:
            _logger.debug("An assessment or tag could not be kept", exc_info=True)
        if found is None:
            return original(self, trace_id, *args, **kwargs)
        annotation, result = found
        processor.annotate(annotation)
        return result

    return method


def _kept_assessment(
    processor: MLflowSpansProcessor, trace_id: str, assessment: Any
) -> tuple[Annotation, Any]:
    assessment.trace_id = trace_id
    if assessment.assessment_id is None:
        # In MLflow's form. Known from now on, so that a repeated write does not store it twice.
        assessment.assessment_id = f"a-{uuid4().hex}"
    content = assessment.to_dictionary()
    for kind in ("feedback", "expectation"):
        if "value" in content.get(kind, ()):
            content[kind]["value"] = _exact(getattr(assessment, kind).value, content[kind]["value"])
    return Annotation(trace_id, assessment=content, made_at=time.time()), assessment


def _exact(value: Any, converted: Any) -> Any:
    """A value of an assessment as JSON: MLflow's conversion makes every number a float."""
    try:
        plain = orjson.loads(orjson.dumps(value))
    except (TypeError, ValueError):
        return converted
    return plain if plain == value else converted


def _kept_tag(
    processor: MLflowSpansProcessor, trace_id: str, key: str, value: Any
) -> tuple[Annotation, None] | None:
    # An open trace has its tags in memory, from where they go on its first span. MLflow refuses to
    # set its own tags.
    if processor.is_open(trace_id) or key in IMMUTABLE_TAGS:
        return None
    # MLflow documents that it cuts longer ones, and its store refuses them.
    tag = (str(key)[:_MAX_KEY], str(value)[:_MAX_VALUE])
    return Annotation(trace_id, tag=tag, made_at=time.time()), None
