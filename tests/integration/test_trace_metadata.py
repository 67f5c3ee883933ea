# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata, models, assessments and tags of traces, in a SQL store and behind a tracking server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_trace_id

from mlflow_bridge._export.contract import Sent
from mlflow_bridge._export.exporter import MLflowSpanExporter
from mlflow_bridge._spans.annotation import Annotation
from tests.integration.place import Place, tokens_of
from tests.integration.span_sink import wait_for
from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow import MlflowClient
from mlflow.entities import AssessmentSource, Expectation, Feedback, TraceInfo

pytestmark = pytest.mark.integration

MODELS = """
import dspy
import mlflow
import mlflow_bridge
from dspy.utils import DummyLM

mlflow.set_experiment("models")
mlflow_bridge.autolog(experiment_name="models")
dspy.configure(lm=DummyLM([{"answer": "Tokyo"}] * 50))


class QA(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.predict(question=question)


class Served(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return [QA()(question=question).answer for question in model_input]


mlflow.set_active_model(name="active")
QA()(question="active")
mlflow.clear_active_model()
QA()(question="none")
served = mlflow.pyfunc.log_model(name="served", python_model=Served(), pip_requirements=[])
mlflow.pyfunc.load_model(served.model_uri).predict(["served"])
mlflow.clear_active_model()
logged = mlflow.dspy.log_model(QA(), name="logged", pip_requirements=[])
mlflow.dspy.load_model(logged.model_uri)(question="logged")
"""

PREFIX = "mlflow_bridge.trace_metadata."
SOURCE = {"mlflow.user", "mlflow.source.name", "mlflow.source.type"}
SIZES = {"mlflow.trace.sizeStats", "mlflow.trace.sizeBytes"}


def stored(
    place: Place, attributes: Mapping[str, Any], mode: str = "auto", *, idle: bool = False
) -> TraceInfo:
    """What MLflow has of a program whose root has these attributes."""
    exporter = place.exporter(trace_metadata=mode)
    spans = place.recorder.rag(attributes)
    assert exporter.deliver(spans) == Sent(len(spans))
    while idle and exporter._delivery_of_details.write_pending_details():
        pass
    exporter.close()
    return place.trace().info


def test_custom_metadata_and_fields(place: Place) -> None:
    info = stored(
        place,
        {
            f"{PREFIX}release": "7",
            f"{PREFIX}team": "日本 \u2028",
            "session.id": "s1",
            "mlflow.traceTag.channel": "web",
            "mlflow_bridge.client_request_id": "request-1",
            "mlflow_bridge.request_preview": "asked",
            "mlflow_bridge.response_preview": "answered",
        },
    )
    metadata = info.trace_metadata
    assert (metadata["release"], metadata["team"]) == ("7", "日本 \u2028")
    assert info.client_request_id == "request-1"
    assert (info.request_preview, info.response_preview) == ("asked", "answered")
    assert metadata.keys() >= SOURCE | SIZES
    # What the spans said is still there.
    assert metadata["mlflow.trace.session"] == "s1"
    assert (info.tags["channel"], info.tags["mlflow.traceName"]) == ("web", "RAG")
    assert (info.state.value, tokens_of(info)) == ("OK", 120)
    assert info.execution_duration is not None
    [found] = place.traces("metadata.release = '7'")
    assert found.info.trace_id == info.trace_id


def test_the_state_that_a_program_gives_its_trace(place: Place) -> None:
    assert stored(place, {"mlflow_bridge.trace_state": "ERROR"}).state.value == "ERROR"


def test_a_model(place: Place) -> None:
    experiment_id = place.client.create_experiment(str(place.config.experiment_name))
    model = place.client.create_logged_model(experiment_id, name="qa")
    info = stored(place, {"mlflow.modelId": model.model_id}, "off")
    assert info.trace_metadata["mlflow.modelId"] == model.model_id
    assert not info.trace_metadata.keys() & (SOURCE | SIZES)
    place.store(place.recorder.rag())
    found = place.client.search_traces(locations=[experiment_id], model_id=model.model_id)
    assert [trace.info.trace_id for trace in found] == [info.trace_id]


@pytest.mark.parametrize(
    ("mode", "idle", "known"),
    [("auto", False, False), ("auto", True, True), ("full", False, True), ("off", True, False)],
)
def test_program_and_user(place: Place, mode: str, idle: bool, known: bool) -> None:
    info = stored(place, {}, mode, idle=idle)
    found = info.trace_metadata.keys() & (SOURCE | SIZES)
    assert found == (SOURCE | SIZES if known else set())
    assert info.request_preview == '{"question":"Capital of Japan?"}'
    assert (info.state.value, tokens_of(info)) == ("OK", 120)
    if known:
        sizes = json.loads(info.trace_metadata["mlflow.trace.sizeStats"])
        assert 0 < sizes["p25"] <= sizes["p50"] <= sizes["p75"] <= sizes["max"]
        assert sizes["total_size_bytes"] == int(info.trace_metadata["mlflow.trace.sizeBytes"])


def test_an_exporter_behind_a_stock_processor_writes_it_after_its_spans(place: Place) -> None:
    exporter = place.exporter()
    exporter.export(place.recorder.rag())
    assert place.trace().info.trace_metadata.keys() >= SOURCE | SIZES
    exporter.shutdown()


def test_a_trace_whose_root_comes_later_is_not_ended_by_its_metadata(place: Place) -> None:
    exporter = place.exporter(trace_metadata="full")
    spans = place.recorder.rag({f"{PREFIX}release": "7"})
    trace_id = id_of(spans[-1])
    assert exporter.deliver(spans[:-1]) == Sent(len(spans) - 1)
    details = exporter._delivery._details
    mapped = exporter._delivery._mapper.map(spans[-1])
    [described] = details.with_details([mapped])
    assert described.details is not None
    assert exporter._delivery._destination.describe(trace_id, described.details) is None
    assert place.trace().info.state.value == "IN_PROGRESS"
    assert exporter.deliver(spans[-1:]) == Sent(1)
    info = place.trace().info
    assert (info.state.value, info.trace_metadata["release"]) == ("OK", "7")
    exporter.close()


def id_of(span: ReadableSpan) -> str:
    context = span.context
    assert context is not None
    return f"tr-{format_trace_id(context.trace_id)}"


def feedback(span: ReadableSpan, **fields: Any) -> ReadableSpan:
    values: dict[str, Any] = {"name": "correct", "value": True, **fields}
    return note(span, f"a-{id_of(span)}", Feedback(**values))


def note(span: ReadableSpan, assessment_id: str, assessment: Any) -> ReadableSpan:
    assert span.context is not None
    assessment.assessment_id, assessment.trace_id = assessment_id, id_of(span)
    annotation = Annotation(id_of(span), assessment=assessment.to_dictionary())
    return annotation.as_span(span.context.trace_id)


def delivered(exporter: MLflowSpanExporter, *spans: ReadableSpan) -> Any:
    return exporter.deliver(spans)


def test_assessments_and_tags_of_a_trace(place: Place) -> None:
    exporter = place.exporter()
    [root] = [place.recorder.one("root", {})]
    assert root.context is not None
    judge = AssessmentSource("LLM_JUDGE", "judge")
    expected = note(root, f"a-2-{id_of(root)}", Expectation(name="answer", value={"city": "東京"}))
    failed = note(
        root, f"a-3-{id_of(root)}", Feedback(name="failed", error=ValueError("no answer"))
    )
    tag = Annotation(id_of(root), tag=("reviewed", "yes")).as_span(root.context.trace_id)
    rated = feedback(root, rationale="exact", source=judge, metadata={"k": "v"})
    assert delivered(exporter, rated, root, expected, failed, tag) == Sent(5)
    info = place.trace().info
    found = {each.name: each for each in info.assessments}
    assert found.keys() == {"correct", "answer", "failed"}
    correct: Any = found["correct"]
    assert (correct.value, correct.rationale, correct.source) == (True, "exact", judge)
    assert (correct.assessment_id, correct.metadata) == (f"a-{id_of(root)}", {"k": "v"})
    answer: Any = found["answer"]
    assert answer.value == {"city": "東京"}
    error: Any = found["failed"]
    assert error.error.error_message == "no answer"
    assert info.tags["reviewed"] == "yes"
    # After an answer that was lost, all is sent again.
    assert delivered(exporter, rated, root, tag) == Sent(3)
    assert len(place.trace().info.assessments) == 3
    exporter.close()


def test_an_assessment_of_a_trace_that_mlflow_does_not_have(place: Place) -> None:
    exporter = place.exporter()
    root, other = place.recorder.one("root", {}), place.recorder.one("other", {})
    assert delivered(exporter, root) == Sent(1)
    assert delivered(exporter, feedback(other), place.recorder.one("next", {})) == Sent(2)
    assert delivered(exporter, other) == Sent(1)
    waits = exporter._delivery._waiting
    assert len(waits) == 1

    def all_written() -> bool:
        for item in waits._waiting.values():
            item.due_at = 0.0
        return not exporter._delivery.write_pending_details() and not len(waits)

    wait_for(all_written, "the assessment that waited")
    found = {trace.info.trace_id: trace.info.assessments for trace in place.traces()}
    assert [each.name for each in found[id_of(other)]] == ["correct"]
    exporter.close()


def test_a_refused_span_does_not_hide_the_trace(place: Place) -> None:
    exporter = place.exporter(trace_metadata="full")
    spans = place.recorder.rag({f"{PREFIX}release": "7"})
    lost = spans[0]
    assert exporter.deliver(spans) == Sent(len(spans))
    place.client.delete_traces(
        experiment_id=place.trace().info.experiment_id, trace_ids=[id_of(lost)]
    )
    assert exporter.deliver(spans[1:]) == Sent(len(spans) - 1)
    assert len(place.trace().data.spans) == len(spans) - 1
    exporter.close()


def test_active_logged_and_loaded_models(store_uri: str, tmp_path: Path) -> None:
    run_program(MODELS, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}, zygote=MLFLOW)
    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name("models")
    assert experiment is not None
    place = [experiment.experiment_id]
    models = client.search_logged_models(experiment_ids=place)
    found = {
        model.name: [
            json.loads(trace.info.request_preview or "{}")["question"]
            for trace in client.search_traces(locations=place, model_id=model.model_id)
        ]
        for model in models
    }
    assert found == {"active": ["active"], "served": ["served"], "logged": ["logged"]}
    assert len(client.search_traces(locations=place)) == 4
