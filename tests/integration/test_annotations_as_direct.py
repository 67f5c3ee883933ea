# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Annotations of a trace in flight are stored, or refused, as MLflow does in a direct call."""

from __future__ import annotations

import ast
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW

pytest.importorskip("mlflow", reason="needs the extra mlflow")

pytestmark = pytest.mark.integration

PROGRAM = """
import enum
import re

import mlflow
import mlflow_bridge
import numpy
from mlflow.entities import AssessmentError, AssessmentSource, Expectation, Feedback

mlflow_bridge.autolog(experiment_name={experiment!r}, schedule_delay_seconds=60)


class Text(str, enum.Enum):
    A = "a"


class Number(enum.IntEnum):
    A = 7


class Other(enum.Enum):
    A = "a"


DEEP = []
DEEP.append(DEEP)
VALUES = {{
    "true": True, "int": 3, "float": 0.25, "whole float": 1.0, "text": "fine", "none": None,
    "list": [1, 2.5, "x", True, None], "dict": {{"a": 1, "b": {{"c": [1.0]}}}}, "empty": {{}},
    "tuple": (1, 2), "int keys": {{1: "x"}}, "bytes": b"x", "set": {{1}}, "object": object(),
    "text enum": Text.A, "int enum": Number.A, "enum": Other.A, "deep": DEEP,
    "float64": numpy.float64(0.5), "int64": numpy.int64(5), "bool_": numpy.bool_(True),
    "array": numpy.array([1]), "nan": float("nan"), "inf": float("-inf"), "big": 2**70,
    "bigger": 10**400, "biggest": 10**5000, "big in list": [2**70, float("nan"), {{"n": -(2**64)}}],
    "long": "x" * 100_000, "umlaut": "\\u00fc\\U0001f600",
}}
FIELDS = {{
    "rationale": dict(rationale="because"),
    "empty rationale": dict(rationale=""),
    "source": dict(source=AssessmentSource("LLM_JUDGE", "gpt")),
    "source without id": dict(source=AssessmentSource("HUMAN", None)),
    "bad source": dict(source="HUMAN"),
    "metadata": dict(metadata={{"k": "v", "n": 1, "d": {{"x": [1]}}, "t": True}}),
    "big metadata": dict(metadata={{"n": 2**70, "nan": float("nan")}}),
    "bad metadata": dict(metadata={{"o": object()}}),
    "run in metadata": dict(metadata={{"mlflow.assessment.sourceRunId": "r1"}}),
    "span": dict(span_id="0123456789abcdef"),
    "error": dict(value=None, error=AssessmentError("CODE", "text", "trace" * 5000)),
    "exception": dict(value=None, error=ValueError("bad")),
    "error and value": dict(error=AssessmentError("CODE")),
    "long name": dict(name="n" * 300),
    "no name": dict(name=None),
    "number as name": dict(name=5),
    "dict as name": dict(name={{"a": 1}}),
    "number as rationale": dict(rationale=5),
    "dict as rationale": dict(rationale={{"a": 1}}),
    "unknown overridden": None,
}}
TAGS = {{
    "text": ("k", "v"), "number": ("n", 5), "none": ("none", None), "long value": ("l", "v" * 9000),
    "value of 5000": ("m", "v" * 5000), "long key": ("k" * 251, "v"), "bad key": ("a$b", "v"),
    "no key": (None, "v"), "number as key": (5, "v"), "empty key": ("", "v"),
    "dotted key": ("../a", "v"), "immutable": ("mlflow.user", "x"),
    "umlaut": ("\\u00fc", "\\u00fc"), "name": ("mlflow.traceName", "renamed"),
    "empty value": ("e", ""),
}}

# The messages of the driver and of protobuf are not repeated.
WRONG_TYPES = {{
    "dict as name", "dict as rationale", "tag number as key", "tag no key", "tag empty key"
}}


def cases(trace_id):
    for label, value in VALUES.items():
        yield f"feedback {{label}}", lambda: mlflow.log_feedback(
            trace_id=trace_id, name=f"feedback {{label}}", value=value)
        yield f"expectation {{label}}", lambda: mlflow.log_expectation(
            trace_id=trace_id, name=f"expectation {{label}}", value=value)
    for label, given in FIELDS.items():
        if given is None:
            yield label, lambda: mlflow.log_assessment(
                trace_id, Feedback(name=label, value=1, overrides="a-unknown"))
            continue
        yield label, lambda: mlflow.log_feedback(
            trace_id=trace_id, **{{"name": f"field {{label}}", "value": 1, **given}})
    for label, tag in TAGS.items():
        yield f"tag {{label}}", lambda: mlflow.set_trace_tag(trace_id, *tag)

    made = {{}}

    def log(name, **more):
        made[name] = mlflow.log_feedback(trace_id=trace_id, name=name, **more)

    def update(name, assessment):
        return mlflow.update_assessment(trace_id, made[name].assessment_id, assessment)

    yield "for update", lambda: log("u", value=1, rationale="first", metadata={{"a": "1"}})
    yield "update", lambda: update("u", Feedback(name="u2", value=[2], metadata={{"b": "2"}}))
    yield "update bad", lambda: update("u", Feedback(name="u3", value={{1, 2}}))
    yield "update nan", lambda: update("u", Feedback(name="u3", value=float("nan")))
    yield "update kind", lambda: update("u", Expectation(name="u4", value=1))
    yield "update unknown", lambda: mlflow.update_assessment(
        trace_id, "a-unknown", Feedback(name="u", value=1))
    yield "for override", lambda: log("o", value=0.5)
    yield "override", lambda: made.update(new=mlflow.override_feedback(
        trace_id=trace_id, assessment_id=made["o"].assessment_id, value=0.75, rationale="better"))
    yield "override unknown", lambda: mlflow.override_feedback(
        trace_id=trace_id, assessment_id="a-unknown", value=1)
    yield "for delete", lambda: log("d", value=1)
    yield "delete", lambda: mlflow.delete_assessment(trace_id, made["d"].assessment_id)
    yield "delete unknown", lambda: mlflow.delete_assessment(trace_id, "a-unknown")
    yield "get deleted", lambda: mlflow.get_assessment(trace_id, made["d"].assessment_id)
    yield "for restored", lambda: log("r", value=1)
    yield "restored", lambda: made.update(r2=mlflow.override_feedback(
        trace_id=trace_id, assessment_id=made["r"].assessment_id, value=2))
    yield "delete override", lambda: mlflow.delete_assessment(trace_id, made["r2"].assessment_id)
    yield "set for delete", lambda: mlflow.set_trace_tag(trace_id, "gone", "x")
    yield "delete tag", lambda: mlflow.delete_trace_tag(trace_id, "gone")
    yield "set twice", lambda: [mlflow.set_trace_tag(trace_id, "twice", n) for n in "ab"]
    yield "set again", lambda: [
        mlflow.set_trace_tag(trace_id, "again", "x"), mlflow.delete_trace_tag(trace_id, "again"),
        mlflow.set_trace_tag(trace_id, "again", "y")]


def outcomes(trace_id):
    found = {{}}
    for label, call in cases(trace_id):
        try:
            call()
            found[label] = "stored"
        except Exception as error:
            text = re.sub("a-[0-9a-f]{{32}}", "ID", str(error).replace(trace_id, "TRACE"))
            text = "" if label in WRONG_TYPES else text.splitlines()[0]
            found[label] = f"{{type(error).__name__}}: {{text}}"
    return found


def content(trace_id):
    trace = mlflow.get_trace(trace_id)
    assessments = []
    for each in trace.info.assessments:
        kept = {{
            key: value for key, value in vars(each).items()
            if key not in ("trace_id", "create_time_ms", "last_update_time_ms", "assessment_id")
        }}
        kept["overrides"] = bool(kept["overrides"])
        kept["metadata"] = sorted((each.metadata or {{}}).items(), key=str)
        kept["error"] = str(each.feedback and each.feedback.error)
        assessments.append(f"{{type(each).__name__}} {{kept!r}}")
    ours = {{key: tag for key, tag in trace.info.tags.items()
             if not key.startswith("mlflow.artifact") and key != "mlflow.traceName"}}
    return sorted(assessments), ours, trace.info.tags["mlflow.traceName"]


def traced():
    with mlflow.start_span("program") as span:
        pass
    return span.trace_id


from mlflow_bridge._spans.annotation import traces_in_flight

first = traced()
assert int(first[3:], 16) in traces_in_flight
kept = outcomes(first)
assert int(first[3:], 16) in traces_in_flight
mlflow.flush_trace_async_logging()
second = traced()
mlflow.flush_trace_async_logging()
direct = outcomes(second)
print(repr([kept, direct, content(first), content(second)]))
"""


@pytest.mark.parametrize("kind", ["store", "server"])
def test_annotations_are_those_of_a_direct_call(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "store":
        uri = request.getfixturevalue("store_uri")
    else:
        uri = request.getfixturevalue("shared_server").uri
    source = PROGRAM.format(experiment=f"as direct {uuid.uuid4().hex[:8]}")
    done = run_program(source, tmp_path, {"MLFLOW_TRACKING_URI": uri}, zygote=MLFLOW)
    results: list[Any] = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    kept, direct, first, second = results
    differing = [
        f"{label}: {kept[label]} | {direct[label]}"
        for label in direct
        if kept[label] != direct[label]
    ]
    assert not differing, "\n".join(differing)
    assert len(first[0]) > 40
    assert not set(first[0]) ^ set(second[0]), "\n".join(sorted({*first[0]} ^ {*second[0]}))
    assert first == second
