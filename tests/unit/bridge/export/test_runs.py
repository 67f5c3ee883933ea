# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of evaluations, which are made and ended on the way of their spans."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    Status,
    StatusCode,
    format_span_id,
    set_span_in_context,
)

from mlflow_bridge._export import trace_details
from mlflow_bridge._export.contract import Rejected, Retry, Sent
from mlflow_bridge._export.delivery import Delivery
from mlflow_bridge._export.runs.contract import RunFigures, RunStep
from mlflow_bridge._spans.otlp_json.decoder import spans_in
from mlflow_bridge._spans.otlp_json.encoder import line_of
from tests.support.dspy_spans import SCOPE
from tests.support.memory import span_memory
from tests.unit.bridge.export.fake_destination import FakeDestination

SECOND = 1_000_000_000
SOURCE = {"mlflow.user": "ada", "mlflow.source.name": "app.py", "mlflow.source.type": "LOCAL"}


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_details, "source_metadata", lambda _: SOURCE)


def delivery_to(destination: FakeDestination) -> Delivery:
    return Delivery(destination, max_attribute_bytes=10_000, max_batch_bytes=10**9)


class Evaluation:
    """The spans of one evaluation with times of the test's own, in seconds."""

    def __init__(self, around: Sequence[tuple[str, str]] = (), **attributes: Any) -> None:
        provider, self._memory = span_memory()
        self._tracer = provider.get_tracer(SCOPE)
        self.span = self._tracer.start_span(
            "evaluate correct",
            start_time=0,
            attributes={
                "dspy.operation": "evaluate",
                "dspy.evaluate.metric": "correct",
                "dspy.evaluate.num_examples": 3,
                "dspy.evaluate.program": "RAG",
                **attributes,
            },
        )
        self.key = format_span_id(self.span.get_span_context().span_id)
        self.path = json.dumps([*around, (self.key, "evaluate correct")])
        self.span.set_attribute("mlflow_bridge.runs", self.path)

    def example(
        self, seconds: float = 1.0, score: float | None = 1.0, **attributes: Any
    ) -> list[ReadableSpan]:
        """The spans of an example, whose metric takes ten seconds."""
        root = self._start(
            "example 0",
            {
                "dspy.operation": "example",
                "dspy.evaluate.trace_id": "5b" * 16,
                "dspy.evaluate.span_id": self.key,
                "dspy.evaluate.metric": "correct",
                "mlflow_bridge.runs": self.path,
                **attributes,
            },
        )
        program = self._start(
            "RAG", {"dspy.operation": "module", "dspy.program.hash": "abc123"}, root
        )
        call = self._start(
            "chat m",
            {
                "dspy.operation": "lm",
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": "m",
                "gen_ai.request.temperature": 0.5,
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.output_tokens": 10,
                "dspy.lm.cost.total": 0.25,
            },
            program,
        )
        call.end(SECOND // 2)
        program.end(int(seconds * SECOND))
        if score is not None:
            root.set_attribute("dspy.example.score", score)
        root.end(int((seconds + 10) * SECOND))
        return self._ended()

    def end(self, **attributes: Any) -> list[ReadableSpan]:
        for key, value in attributes.items():
            self.span.set_attribute(key.replace("__", "."), value)
        self.span.end(60 * SECOND)
        return self._ended()

    def _start(self, name: str, attributes: Mapping[str, Any], above: Span = INVALID_SPAN) -> Span:
        return self._tracer.start_span(
            name, set_span_in_context(above), start_time=0, attributes=attributes
        )

    def _ended(self) -> list[ReadableSpan]:
        spans = list(self._memory.get_finished_spans())
        self._memory.clear()
        return spans


@pytest.fixture
def destination() -> FakeDestination:
    return FakeDestination()


def linked(destination: FakeDestination) -> list[str | None]:
    """The run of each batch with a local root."""
    return [
        batch.run_id for batch in destination.batches if any(one.is_root for one in batch.spans)
    ]


def test_the_run_is_made_with_the_first_example_and_ended_with_the_evaluation(
    destination: FakeDestination,
) -> None:
    delivery, evaluation = delivery_to(destination), Evaluation()
    run_id = f"run of {evaluation.key}"

    delivery.attempt(evaluation.example(seconds=1, score=1.0))
    assert list(destination.runs) == [run_id]
    assert destination.ended == {}
    delivery.attempt(evaluation.example(seconds=2, score=0.0))
    delivery.attempt(evaluation.example(seconds=6, score=None))
    delivery.attempt(evaluation.end(dspy__evaluate__score=50.0, dspy__evaluate__error__count=1))

    made = destination.runs[run_id]
    assert (made.name, made.experiment_id, made.start_ms) == ("evaluate correct", None, 0)
    assert made.tags == {
        **SOURCE,
        "mlflow_bridge.run_key": evaluation.key,
        "dspy.evaluate.trace_id": "5b" * 16,
        "mlflow.runType": "genai_evaluate",
    }
    assert linked(destination) == [run_id, run_id, run_id, None]
    figures = destination.ended[run_id]
    assert figures.status == "FINISHED"
    assert figures.end_ms == 60_000
    assert figures.parameters == {
        "metric": "correct",
        "devset_size": "3",
        "program": "RAG",
        "program_hash": "abc123",
        "lm": "m",
        "lm.temperature": "0.5",
    }
    assert figures.metrics == {
        "score": 50.0,
        "errors": 1.0,
        "correct/mean": 0.5,
        "correct/min": 0.0,
        "correct/max": 1.0,
        "traces": 3.0,
        "latency/mean": 3.0,
        "latency/max": 6.0,
        "latency/p50": 2.0,
        "latency/p90": 6.0,
        "latency/p95": 6.0,
        "latency/p99": 6.0,
        "tokens/input": 300.0,
        "tokens/output": 30.0,
        "tokens/total": 330.0,
        "cost/total": 0.75,
    }
    assert all(type(value) is float for value in figures.metrics.values())


def test_an_evaluation_that_comes_with_its_examples_counts_them(
    destination: FakeDestination,
) -> None:
    evaluation = Evaluation()
    spans = [*evaluation.example(), *evaluation.example(), *evaluation.end()]
    delivery_to(destination).attempt(spans)
    assert destination.ended[f"run of {evaluation.key}"].metrics["traces"] == 2.0


def test_runs_contain_one_another(destination: FakeDestination) -> None:
    evaluation = Evaluation([("c" * 16, "compile GEPA")])
    delivery_to(destination).attempt(evaluation.example(**{"mlflow.sourceRun": "active"}))
    outer, inner = destination.runs.values()
    assert (outer.name, outer.tags["mlflow.parentRunId"]) == ("compile GEPA", "active")
    assert "mlflow.runType" not in outer.tags
    assert (inner.name, inner.tags["mlflow.parentRunId"]) == (
        "evaluate correct",
        f"run of {'c' * 16}",
    )
    assert linked(destination) == [f"run of {evaluation.key}"]


def test_the_run_is_in_the_experiment_of_its_traces(destination: FakeDestination) -> None:
    evaluation = Evaluation()
    delivery_to(destination).attempt(evaluation.example(**{"mlflow.experimentId": "7"}))
    [made] = destination.runs.values()
    assert made.experiment_id == "7"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("ValueError", "FAILED"),
        ("KeyboardInterrupt", "KILLED"),
        ("asyncio.exceptions.CancelledError", "KILLED"),
    ],
)
def test_an_evaluation_that_did_not_end_well(
    destination: FakeDestination, error: str, status: str
) -> None:
    evaluation = Evaluation()
    evaluation.span.set_status(Status(StatusCode.ERROR))
    delivery_to(destination).attempt(evaluation.end(error__type=error))
    assert destination.ended[f"run of {evaluation.key}"].status == status


def test_an_outage_loses_no_run_and_counts_no_trace_twice(destination: FakeDestination) -> None:
    delivery, evaluation = delivery_to(destination), Evaluation()
    down = Retry("down")
    spans = [*evaluation.example(), *evaluation.example()]
    destination.run_failures.append(down)
    assert delivery.attempt(spans) == down
    assert destination.stored == []
    destination.answers.append(down)
    assert delivery.attempt(spans) == down
    assert delivery.attempt(spans) == Sent(6)
    ended = evaluation.end()
    destination.run_failures.append(down)
    assert delivery.attempt(ended) == down
    assert "evaluate correct" not in destination.stored
    assert delivery.attempt(ended) == Sent(1)
    assert destination.ended[f"run of {evaluation.key}"].metrics["traces"] == 2.0


@pytest.mark.parametrize("failure", [Rejected("no runs"), Retry("no right", lasting=True)])
def test_a_destination_without_runs_gets_the_spans(
    destination: FakeDestination, failure: Retry | Rejected, caplog: pytest.LogCaptureFixture
) -> None:
    delivery, evaluation = delivery_to(destination), Evaluation()
    destination.run_failures.extend([failure] * 3)
    with caplog.at_level(logging.WARNING):
        assert delivery.attempt(evaluation.example()) == Sent(3)
        assert delivery.attempt(evaluation.end()) == Sent(1)
    assert linked(destination) == [None, None]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert failure.reason in caplog.text


def test_another_process_finds_the_run_again(destination: FakeDestination) -> None:
    evaluation = Evaluation()
    delivery_to(destination).attempt(evaluation.example())
    spooled = [one for span in evaluation.example() for one in spans_in(line_of([span]))]
    delivery_to(destination).attempt(spooled)
    run_id = f"run of {evaluation.key}"
    assert linked(destination) == [run_id, run_id]
    assert list(destination.runs) == [run_id]


def test_the_run_of_another_process_does_not_say_what_runs_here(
    destination: FakeDestination,
) -> None:
    spooled = [one for span in Evaluation().example() for one in spans_in(line_of([span]))]
    delivery_to(destination).attempt(spooled)
    [made] = destination.runs.values()
    assert "mlflow.user" not in made.tags


def test_an_optimizer_counts_its_own_calls_of_models(destination: FakeDestination) -> None:
    provider, memory = span_memory()
    tracer = provider.get_tracer(SCOPE)
    path = json.dumps([("c" * 16, "compile GEPA")])
    compiled = tracer.start_span(
        "compile GEPA",
        attributes={
            "dspy.operation": "compile",
            "dspy.optimizer.type": "GEPA",
            "dspy.optimizer.best_score": 80.0,
            "mlflow_bridge.runs": path,
        },
    )
    tracer.start_span(
        "chat m",
        set_span_in_context(compiled),
        attributes={"dspy.operation": "lm", "gen_ai.usage.input_tokens": 7},
    ).end()
    compiled.end()
    delivery_to(destination).attempt(list(memory.get_finished_spans()))
    figures = destination.ended[f"run of {'c' * 16}"]
    assert figures.parameters["optimizer"] == "GEPA"
    assert figures.metrics["best_score"] == 80.0
    assert figures.metrics["tokens/input"] == 7.0


def test_the_trials_of_an_optimizer_are_steps_of_its_run(destination: FakeDestination) -> None:
    delivery = delivery_to(destination)
    around = [("c" * 16, "compile GEPA")]
    for index, score in enumerate((50.0, 80.0, 60.0)):
        trial = Evaluation(around, **{"dspy.optimizer.trial.index": index})
        delivery.attempt([*trial.example(), *trial.end(dspy__evaluate__score=score)])
        assert destination.ended[f"run of {trial.key}"].parameters["trial"] == str(index)
    assert [run_id for run_id, _ in destination.steps] == [f"run of {'c' * 16}"] * 3
    assert [step for _, step in destination.steps] == [
        RunStep(0, {"trial/score": 50.0, "trial/best_score": 50.0}, 60_000),
        RunStep(1, {"trial/score": 80.0, "trial/best_score": 80.0}, 60_000),
        RunStep(2, {"trial/score": 60.0, "trial/best_score": 80.0}, 60_000),
    ]


def test_a_step_that_fails_is_written_again(destination: FakeDestination) -> None:
    delivery = delivery_to(destination)
    trial = Evaluation([("c" * 16, "compile GEPA")], **{"dspy.optimizer.trial.index": 0})
    delivery.attempt(trial.example())
    ended = trial.end(dspy__evaluate__score=50.0)
    log_step, destination.log_step = destination.log_step, lambda *_: Retry("down")  # type: ignore[method-assign]
    assert delivery.attempt(ended) == Retry("down")
    destination.log_step = log_step  # type: ignore[method-assign]
    assert delivery.attempt(ended) == Sent(1)
    assert len(destination.steps) == 1


def test_an_evaluation_on_its_own_is_no_step(destination: FakeDestination) -> None:
    evaluation = Evaluation()
    spans = [*evaluation.example(), *evaluation.end(dspy__evaluate__score=50.0)]
    delivery_to(destination).attempt(spans)
    assert destination.steps == []


def test_the_settings_of_an_optimizer_are_parameters(destination: FakeDestination) -> None:
    provider, memory = span_memory()
    provider.get_tracer(SCOPE).start_span(
        "compile GEPA",
        attributes={
            "dspy.operation": "compile",
            "dspy.optimizer.config": '{"max_rounds":3,"auto":"light"}',
            "mlflow_bridge.runs": json.dumps([("c" * 16, "compile GEPA")]),
        },
    ).end()
    delivery_to(destination).attempt(list(memory.get_finished_spans()))
    parameters = destination.ended[f"run of {'c' * 16}"].parameters
    assert parameters == {"optimizer.max_rounds": "3", "optimizer.auto": "light"}


def test_without_runs_nothing_is_asked(destination: FakeDestination) -> None:
    evaluation = Evaluation()
    spans = evaluation.example(**{"mlflow_bridge.runs": ""})
    delivery_to(destination).attempt(spans)
    assert destination.runs == {}
    assert destination.ended == dict[str, RunFigures]()
