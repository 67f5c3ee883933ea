# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Names in MLflow's search language for traces: an error that has the right name.

MLflow's own error for a wrong name lists every name it knows, or finds no trace without an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from mlflow_bridge._config.base import ConfigurationError
from mlflow_bridge._spans.names import TRACE_SESSION, TRACE_USER

_TRACE: Final = (
    "client_request_id",
    "end_time",
    "end_time_ms",
    "execution_time",
    "execution_time_ms",
    "name",
    "prompt",
    "request_id",
    "run_id",
    "status",
    "text",
    "timestamp",
    "timestamp_ms",
)
_SPAN: Final = ("content", "name", "status", "type")
_KEYED: Final = ("tag", "tags", "metadata", "request_metadata", "feedback", "expectation", "issue")
_OF_TRACE: Final = ("trace", "attribute", "attributes")
_GROUPS: Final = (*_KEYED, *_OF_TRACE, "span")

_SESSION: Final = f"metadata.`{TRACE_SESSION}`"
_USER: Final = f"metadata.`{TRACE_USER}`"
_DURATION: Final = "trace.execution_time_ms"
_START: Final = "trace.timestamp_ms"

_OTHER_GROUPS: Final = {
    "spans": "span",
    "traces": "trace",
    "meta": "metadata",
    "trace_metadata": "metadata",
    "trace_tag": "tags",
    "assessment": "feedback",
    "assessments": "feedback",
    "score": "feedback",
    "scores": "feedback",
    "feedbacks": "feedback",
    "expectations": "expectation",
    "issues": "issue",
    "info": "trace",
}
_OTHER_TRACE_NAMES: Final = {
    "duration": _DURATION,
    "duration_ms": _DURATION,
    "execution_duration": _DURATION,
    "execution_duration_ms": _DURATION,
    "latency": _DURATION,
    "latency_ms": _DURATION,
    "start_time": _START,
    "time": _START,
    "request_time": _START,
    "state": "trace.status",
    "id": "trace.request_id",
    "trace_id": "trace.request_id",
    "trace_name": "trace.name",
    "run": "trace.run_id",
    "session": _SESSION,
    "session_id": _SESSION,
    "session.id": _SESSION,
    "user": _USER,
    "user_id": _USER,
    "user.id": _USER,
}
_OTHER_SPAN_NAMES: Final = {
    "kind": "span.type",
    "span_type": "span.type",
    "state": "span.status",
    "inputs": "span.content",
    "outputs": "span.content",
    "text": "span.content",
    "model": "span.attributes.`mlflow.llm.model`",
}

_VALUE: Final = re.compile(r"""'(?:[^'\\]|\\.)*'|(?<![.\w])"(?:[^"\\]|\\.)*\"""")
_NAME: Final = re.compile(
    r"""(?P<name>[A-Za-z_][\w.]*(?:\.?(?:`[^`]*`|"[^"]*"))?)\s*"""
    r"""(?:!=|<=|>=|=|<|>|\b(?:NOT\s+IN|IN|I?LIKE|RLIKE|IS)\b)""",
    re.IGNORECASE,
)


def check_filter(filter_string: str) -> None:
    """Look for names that MLflow does not know in a filter for traces.

    Raises:
        ConfigurationError: There is such a name; the message has the right one.
    """
    for name in _names_in(filter_string):
        accepted = _correction(name)
        if accepted is not None:
            raise ConfigurationError(
                f"filter_string of get_traces() has {name!r}, which MLflow does not know; "
                f"accepted: {accepted}"
            )


def _names_in(filter_string: str) -> Iterator[str]:
    without_values = _VALUE.sub("?", filter_string)
    return (found["name"] for found in _NAME.finditer(without_values))


def _correction(name: str) -> str | None:
    """Name to write instead of a wrong one; None if the name is right."""
    group, dot, key = name.partition(".")
    if name in _TRACE or (dot and group in _KEYED):
        return None
    if dot and group in _OF_TRACE:
        return None if key in _TRACE else _trace_name(key)
    if dot and group == "span":
        return None if key in _SPAN or key.startswith("attributes.") else _span_name(key)
    if name in _OTHER_TRACE_NAMES:
        return _OTHER_TRACE_NAMES[name]
    if dot and group in _OTHER_GROUPS:
        right = f"{_OTHER_GROUPS[group]}.{key}"
        return _correction(right) or right
    if dot:
        similar = get_close_matches(group, _GROUPS, n=1)
        return f"{similar[0]}.{key}" if similar else _all_names()
    return _trace_name(name)


def _trace_name(key: str) -> str:
    if key in _OTHER_TRACE_NAMES:
        return _OTHER_TRACE_NAMES[key]
    similar = get_close_matches(key, _TRACE, n=1)
    return f"trace.{similar[0]}" if similar else _all_names()


def _span_name(key: str) -> str:
    if key in _OTHER_SPAN_NAMES:
        return _OTHER_SPAN_NAMES[key]
    if key.startswith(("attribute.", "attrs.")):
        return f"span.attributes.{key.partition('.')[2]}"
    similar = get_close_matches(key, _SPAN, n=1)
    return f"span.{similar[0]}" if similar else f"span.attributes.{key}"


def _all_names() -> str:
    return (
        f"trace. with {', '.join(_TRACE)}; span. with {', '.join(_SPAN)} or attributes.<name>; "
        "tags.<name>, metadata.<name>, feedback.<name>, expectation.<name>"
    )
