# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What the trace of an example takes from the trace of its evaluation."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN, Link, Tracer, set_span_in_context

from mlflow_bridge import MLflowBatchSpanProcessor, trace_context
from tests.support.fake_delivery import FakeDelivery

EVALUATION_ID = {"dspy.evaluate.trace_id": "5b" * 16}


class Evaluation:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        provider.add_span_processor(MLflowBatchSpanProcessor(FakeDelivery()))
        self.tracer: Tracer = provider.get_tracer("test")

    def example(self, evaluation: Span) -> dict[str, object]:
        """The attributes of an example that runs in a thread of its own."""
        span = self.tracer.start_span(
            "example 0",
            set_span_in_context(INVALID_SPAN),
            attributes=EVALUATION_ID,
            links=[Link(evaluation.get_span_context())],
        )
        with_program = self.tracer.start_span("program", set_span_in_context(span))
        with_program.end()
        span.end()
        program, example = self._exporter.get_finished_spans()[-2:]
        self.of_program = dict(program.attributes or {})
        return {
            key: value
            for key, value in (example.attributes or {}).items()
            if key not in EVALUATION_ID
        }


@pytest.fixture
def evaluation(monkeypatch: pytest.MonkeyPatch) -> Evaluation:
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    return Evaluation()


INHERITED = {
    "session.id": "s",
    "user.id": "u",
    "gen_ai.conversation.id": "c",
    "mlflow.experimentId": "7",
    "mlflow.sourceRun": "run",
    "mlflow.modelId": "model",
    "mlflow.traceTag.team": "north",
    "mlflow_bridge.trace_metadata.release": "2",
}


def test_values_of_the_root_hold_for_each_example(evaluation: Evaluation) -> None:
    root = evaluation.tracer.start_span(
        "GET /", attributes={**INHERITED, "mlflow.traceTag.mlflow.traceName": "web", "other": 1}
    )
    run = evaluation.tracer.start_span("evaluate", set_span_in_context(root))
    assert isinstance(run, Span)
    assert evaluation.example(run) == INHERITED
    assert evaluation.of_program["mlflow.experimentId"] == "7"


def test_values_of_the_evaluation_go_before_those_of_the_root(evaluation: Evaluation) -> None:
    root = evaluation.tracer.start_span("GET /", attributes={"session.id": "outer"})
    run = evaluation.tracer.start_span(
        "evaluate", set_span_in_context(root), attributes={"session.id": "inner"}
    )
    assert isinstance(run, Span)
    assert evaluation.example(run) == {"session.id": "inner"}


def test_an_evaluation_that_has_ended_gives_nothing(evaluation: Evaluation) -> None:
    run = evaluation.tracer.start_span("evaluate", attributes=INHERITED)
    run.end()
    assert isinstance(run, Span)
    assert evaluation.example(run) == {}


def test_the_name_in_a_trace_context_is_that_of_the_evaluation(evaluation: Evaluation) -> None:
    with trace_context(name="nightly", tags={"team": "north"}):
        run = evaluation.tracer.start_span("evaluate")
        assert isinstance(run, Span)
        assert evaluation.example(run) == {"mlflow.traceTag.team": "north"}
