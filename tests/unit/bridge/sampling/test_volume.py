# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling inside of optimizers and evaluations."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import dspy
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from mlflow_bridge import DSPySampler
from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.memory import span_memory
from tests.unit.bridge.sampling.conftest import SampleWith
from tests.unit.bridge.sampling.sampled import EXAMPLES, RAG, compiled, evaluate, metric, sampling

EVALUATION = {"evaluate": 1, "example": 4, "metric": 4, "module": 4, "predict": 4, "lm": 4}


def some(operations: Counter[str], names: Any = EVALUATION) -> dict[str, int]:
    return {name: operations[name] for name in names}


def test_by_default_all_of_an_evaluation_is_recorded(sample_with: SampleWith) -> None:
    sampled = sample_with()
    assert evaluate(RAG()) == 100.0
    assert some(sampled.operations()) == EVALUATION


def test_a_summary_of_an_evaluation_has_itself_and_its_score(sample_with: SampleWith) -> None:
    sampled = sample_with(evaluations="summary", summary_rate=0.0)
    assert evaluate(RAG()) == 100.0
    [span] = sampled.spans
    attributes = dict(span.attributes or {})
    assert attributes["dspy.operation"] == "evaluate"
    assert attributes["dspy.evaluate.score"] == 100.0
    assert attributes["dspy.evaluate.num_examples"] == 4


def test_examples_in_a_summary_are_whole(
    sample_with: SampleWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_bridge.sampling.volume.rng", random.Random(1))
    sampled = sample_with(evaluations="summary", summary_rate=0.5)
    for _ in range(10):
        assert evaluate(RAG()) == 100.0
    counts = sampled.operations()
    assert counts["evaluate"] == 10
    assert 0 < counts["example"] < 40
    names = ("example", "metric", "module", "predict", "lm")
    assert some(counts, names) == dict.fromkeys(names, counts["example"])


def test_the_traces_of_examples_follow_their_evaluation(sample_with: SampleWith) -> None:
    sampled = sample_with(evaluation_traces="per_example", rate=0.0)
    assert evaluate(RAG()) == 100.0
    assert some(sampled.operations()) == EVALUATION
    assert sampled.traces() == 5


def test_a_summary_has_a_share_of_the_traces_of_examples(
    sample_with: SampleWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_bridge.sampling.volume.rng", random.Random(1))
    sampled = sample_with(
        evaluation_traces="per_example", rate=0.0, evaluations="summary", summary_rate=0.5
    )
    for _ in range(10):
        assert evaluate(RAG()) == 100.0
    counts = sampled.operations()
    assert counts["evaluate"] == 10
    assert 0 < counts["example"] < 40
    assert sampled.traces() == 10 + counts["example"]
    names = ("example", "metric", "module", "predict", "lm")
    assert some(counts, names) == dict.fromkeys(names, counts["example"])


def test_there_are_no_traces_of_examples_without_their_evaluation(sample_with: SampleWith) -> None:
    sampled = sample_with(evaluation_traces="per_example", evaluations="off")
    assert evaluate(RAG()) == 100.0
    assert sampled.spans == ()


def test_nothing_of_evaluations(sample_with: SampleWith) -> None:
    sampled = sample_with(evaluations="off")
    assert evaluate(RAG()) == 100.0
    assert sampled.spans == ()
    RAG()(question="Why?")
    assert sampled.operations()["module"] == 1


def test_an_evaluation_is_recorded_whatever_the_ratio(sample_with: SampleWith) -> None:
    sampled = sample_with(rate=0.0)
    RAG()(question="Why?")
    assert sampled.spans == ()
    assert evaluate(RAG()) == 100.0
    assert some(sampled.operations()) == EVALUATION


def test_a_summary_of_an_optimizer_has_its_runs_and_evaluations(sample_with: SampleWith) -> None:
    sampled = sample_with(optimizers="summary", summary_rate=0.0, evaluations="off")
    program = compiled(RAG())
    counts = sampled.operations()
    assert counts.keys() == {"compile", "evaluate"}
    assert counts["evaluate"] == 4
    [root] = [span for span in sampled.spans if span.parent is None]
    assert root.name == "compile BootstrapFewShotWithRandomSearch"
    assert dict(root.attributes or {})["dspy.optimizer.trial.count"] == 4
    assert program(question="question 0").answer == "blue"


def test_everything_in_a_summary(sample_with: SampleWith) -> None:
    counts: list[Counter[str]] = []
    for settings in ({"optimizers": "full"}, {"optimizers": "summary", "summary_rate": 1.0}):
        sampled = sample_with(**settings)
        compiled(RAG())
        counts.append(sampled.operations())
        sampled.close()
    full, summary = counts
    assert full == summary
    assert full["example"] == 16


def test_nothing_of_optimizers(sample_with: SampleWith) -> None:
    sampled = sample_with(optimizers="off")
    program = compiled(RAG())
    assert sampled.spans == ()
    program(question="question 0")
    assert sampled.operations()["module"] == 1
    # Evaluations inside of an optimizer are a part of it, and others are not.
    evaluate(RAG())
    assert sampled.operations()["evaluate"] == 1


def test_work_that_is_divided_among_threads_is_a_part_of_the_run(sample_with: SampleWith) -> None:
    class Optimizer(dspy.teleprompt.Teleprompter):
        def compile(self, student: Any, **kwargs: Any) -> Any:
            pairs = [(student, {"question": "Why?"}) for _ in range(3)]
            dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)
            return student

    sampled = sample_with(optimizers="summary", summary_rate=0.0)
    Optimizer().compile(RAG())
    assert sampled.operations() == {"compile": 1, "parallel": 1}


def test_work_divided_by_a_program_is_a_part_of_the_program(
    sample_with: SampleWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dividing(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = RAG()

        def forward(self, question: str) -> Any:
            pairs = [(self.inner, {"question": question})] * 3
            return dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs)[0]

    class OnlyOnce(random.Random):
        """Below the share the first time it is asked, and never again."""

        asked = 0

        def random(self) -> float:
            self.asked += 1
            return 0.0 if self.asked == 1 else 1.0

    monkeypatch.setattr("mlflow_bridge.sampling.volume.rng", OnlyOnce())
    sampled = sample_with(evaluations="summary", summary_rate=0.5)
    dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=1, display_progress=False)(Dividing())
    counts = sampled.operations()
    assert some(counts, ("evaluate", "example", "parallel", "lm")) == {
        "evaluate": 1,
        "example": 1,
        "parallel": 1,
        "lm": 3,
    }


def test_of_what_is_left_out_there_are_metrics(sample_with: SampleWith) -> None:
    reader = InMemoryMetricReader()
    provider, memory = span_memory(DSPySampler(sampling(evaluations="off")))
    DSPyInstrumentor().instrument(
        tracer_provider=provider, meter_provider=MeterProvider(metric_readers=[reader])
    )
    try:
        evaluate(RAG())
    finally:
        DSPyInstrumentor().uninstrument()
    assert memory.get_finished_spans() == ()
    data: Any = reader.get_metrics_data()
    [durations] = [
        found
        for scope in data.resource_metrics[0].scope_metrics
        for found in scope.metrics
        if found.name == "gen_ai.client.operation.duration"
    ]
    assert sum(point.count for point in durations.data.data_points) == 4
