# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tail sampling: what MLflow has, with reasons and weights, while other exporters get all spans."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Status, StatusCode, format_trace_id

from mlflow_bridge import DSPySampler, MLflowBatchSpanProcessor
from mlflow_bridge._spans.annotation import Annotation, annotate
from mlflow_bridge.sampling.keys import is_in_share
from tests.integration.place import Place
from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import MLFLOW

pytest.importorskip("mlflow", reason="needs the extra mlflow")

pytestmark = pytest.mark.integration

SECOND = 1_000_000_000
PROGRAM = """
import dspy
import mlflow
import mlflow_bridge
from dspy.utils import DummyLM

client = mlflow_bridge.autolog(
    tail_rate=0, tail_score_below={"correct": 0.5}, tail_keep_errors=False
)
dspy.configure(lm=DummyLM([{"answer": "Tokyo"}] * 50))
predict = dspy.Predict("question -> answer")
for index, score in enumerate([1.0, 0.2, None, True, False]):
    predict(question=f"question {index}")
    if score is not None:
        mlflow.log_feedback(
            trace_id=mlflow.get_last_active_trace_id(), name="correct", value=score
        )
assert client.flush(60)
"""


class SeededIds(IdGenerator):
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128) or 1


def test_a_thousand_traces(place: Place) -> None:
    config = place.config.replace(
        sampling_rate=0.9999,
        tail_rate=0.01,
        tail_slower_than_seconds=5,
        tail_score_below={"correct": 0.5},
        schedule_delay_seconds=0.1,
        exit_timeout_seconds=300,
    )
    everything = InMemorySpanExporter()
    provider = TracerProvider(
        sampler=DSPySampler(config), id_generator=SeededIds(7), shutdown_on_exit=False
    )
    provider.add_span_processor(MLflowBatchSpanProcessor(config))
    provider.add_span_processor(SimpleSpanProcessor(everything))
    tracer = provider.get_tracer("test")
    expected: dict[str, str] = {}
    for index in range(1000):
        failed, slow, bad = index % 100 == 1, index % 50 == 2, index % 200 == 3
        root = tracer.start_span(
            f"root {index}", attributes={"dspy.operation": "module"}, start_time=SECOND
        )
        if failed:
            root.set_status(Status(StatusCode.ERROR))
        root.end(end_time=SECOND * (7 if slow else 2))
        trace_id = root.get_span_context().trace_id
        if not root.get_span_context().trace_flags.sampled:
            continue
        name = f"tr-{format_trace_id(trace_id)}"
        content = {
            "assessment_id": f"a-{name}",
            "trace_id": name,
            "assessment_name": "correct",
            "source": {"source_type": "CODE", "source_id": "test"},
            "create_time": "2026-01-01T00:00:00Z",
            "last_update_time": "2026-01-01T00:00:00Z",
            "feedback": {"value": 0.1 if bad else 0.9},
        }
        annotate(Annotation(name, assessment=content), trace_id)
        reason = "error" if failed else "slow" if slow else "score:correct" if bad else None
        if reason is None and is_in_share(trace_id, 0.01):
            reason = "rate"
        if reason is not None:
            expected[name] = reason
    provider.shutdown()
    by_reason = Counter(expected.values())
    assert (by_reason["error"], by_reason["slow"], by_reason["score:correct"]) == (10, 20, 5)
    stored = {trace.info.trace_id: trace.info for trace in place.traces()}
    assert {key: info.tags["dspy.sampling.reason"] for key, info in stored.items()} == expected
    for info in stored.values():
        share = 0.01 if info.tags["dspy.sampling.reason"] == "rate" else 0.9999
        assert float(info.tags["dspy.sampling.weight"]) == pytest.approx(1 / share)
        assert [one.name for one in info.assessments] == ["correct"]
    spans = everything.get_finished_spans()
    assert len(spans) >= 990
    assert {(span.attributes or {})["dspy.sampling.probability"] for span in spans} == {0.9999}


def test_feedback_of_a_program_keeps_its_trace(tmp_path: Path, store_uri: str) -> None:
    environment = {"MLFLOW_TRACKING_URI": store_uri}
    run_program(PROGRAM, tmp_path, environment, zygote=MLFLOW)
    traces = stored_traces(store_uri)
    assert len(traces) == 2
    for trace in traces:
        assert trace.info.tags["dspy.sampling.reason"] == "score:correct"
        assert trace.info.tags["dspy.sampling.weight"] == "1"
        [assessment] = trace.info.assessments
        assert assessment.name == "correct"
    values = [trace.info.assessments[0].feedback.value for trace in traces]
    assert sorted(map(float, values)) == [0.0, 0.2]
