# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The score of an example as MLflow's assessments, from the first span of the example's trace.

Assessments have ids that follow from trace and name: MLflow stores an assessment once, however
often it is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final, cast

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode, format_trace_id

from mlflow_bridge._export.mapping.storable import clean_text, json_text, parsed_json
from mlflow_bridge._spans.inheritance import is_example_trace
from opentelemetry.instrumentation.dspy import semconv

_MAX_NAME: Final = 250
_MAX_TEXT: Final = 65_536
_MAX_EXACT: Final = 2**53
_PASS: Final = "pass"

Assessment = dict[str, Any]
"""An assessment in the form of ``mlflow.entities.Assessment.to_dictionary``."""


def assessments_of(
    span: ReadableSpan, source: Mapping[str, Any], trace_id: int
) -> tuple[Assessment, ...]:
    """The assessments of the trace of an example; none for any other span.

    Args:
        span: The first span of the trace.
        source: Its attributes, with those that it is lent.
        trace_id: OpenTelemetry's id of the trace.
    """
    if not is_example_trace(source):
        return ()
    draft = _Draft(f"tr-{format_trace_id(trace_id)}", span.end_time)
    return (*_feedback(draft, span, source), *_expectations(draft, source))


class _Draft:
    """Trace and time, which all assessments of a trace have."""

    def __init__(self, trace_id: str, ended_ns: int | None) -> None:
        self._trace_id = trace_id
        moment = datetime.fromtimestamp((ended_ns or 0) / 1e9, tz=timezone.utc)
        self._time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def assessment(self, kind: str, name: str, value: Mapping[str, Any]) -> Assessment:
        shown = clean_text(name, 4 * _MAX_NAME)[:_MAX_NAME]
        digest = hashlib.sha256(f"{self._trace_id}/{kind}/{shown}".encode()).hexdigest()
        is_feedback = kind == "feedback"
        return {
            "assessment_id": f"a-{digest[:32]}",
            "assessment_name": shown,
            "trace_id": self._trace_id,
            "source": {
                "source_type": "CODE" if is_feedback else "HUMAN",
                "source_id": shown if is_feedback else "devset",
            },
            "create_time": self._time,
            "last_update_time": self._time,
            kind: dict(value),
            **({"valid": True} if is_feedback else {}),
        }


def _feedback(draft: _Draft, span: ReadableSpan, source: Mapping[str, Any]) -> Iterator[Assessment]:
    name = source.get(semconv.DSPY_EVALUATE_METRIC)
    if not isinstance(name, str):
        return
    value = _value(source)
    if span.status.status_code is StatusCode.ERROR:
        yield draft.assessment("feedback", name, {"value": None, "error": _error(span, source)})
    elif value is not None:
        made = draft.assessment("feedback", name, {"value": value})
        rationale = source.get(semconv.GEN_AI_EVALUATION_EXPLANATION)
        if isinstance(rationale, str):
            made["rationale"] = clean_text(rationale, _MAX_TEXT)
        yield made


def _value(source: Mapping[str, Any]) -> float | bool | None:
    score = source.get(semconv.DSPY_EXAMPLE_SCORE)
    # Only a metric that answers yes or no has this label.
    label = source.get(semconv.GEN_AI_EVALUATION_SCORE_LABEL)
    return score if label is None or score is None else label == _PASS


def _error(span: ReadableSpan, source: Mapping[str, Any]) -> dict[str, str]:
    code = str(source.get("error.type") or "Error")
    return {
        "error_code": clean_text(code, _MAX_NAME),
        "error_message": clean_text(span.status.description or code, _MAX_TEXT),
    }


def _expectations(draft: _Draft, source: Mapping[str, Any]) -> Iterator[Assessment]:
    fields = parsed_json(source.get(semconv.DSPY_EXAMPLE_INPUT))
    names = source.get(semconv.DSPY_EXAMPLE_LABEL_FIELDS)
    if not isinstance(fields, dict) or not isinstance(names, (list, tuple)):
        return
    known = cast("dict[str, Any]", fields)
    for name in cast("Sequence[object]", names):
        if isinstance(name, str) and name in known:
            yield draft.assessment("expectation", name, _expected(known[name]))


def _is_exact(value: Any) -> bool:
    return isinstance(value, int) and abs(value) <= _MAX_EXACT


def _expected(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"value": clean_text(value, _MAX_TEXT)}
    # MLflow's form of a plain value has no integers, but floats.
    if value is None or isinstance(value, (bool, float)) or _is_exact(value):
        return {"value": value}
    return {
        "serialized_value": {
            "serialization_format": "JSON_FORMAT",
            "value": str(json_text(value, _MAX_TEXT)),
        }
    }
