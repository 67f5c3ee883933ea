# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The runs in MLflow that a span belongs to."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.trace import INVALID_SPAN, Link, format_span_id, set_span_in_context

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig
from mlflow_bridge._spans.names import RUNS
from mlflow_bridge._spans.run_path import RunOfSpan, run_path_of
from tests.support.fake_delivery import FakeDelivery

EVALUATION_ID = {"dspy.evaluate.trace_id": "5b" * 16, "dspy.operation": "example"}


class Program:
    def __init__(self, **settings: Any) -> None:
        delivery = FakeDelivery()
        delivery.config = MLflowDSPyConfig(**settings)  # type: ignore[attr-defined]
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(MLflowBatchSpanProcessor(delivery))
        self._tracer = provider.get_tracer("test")

    def start(self, name: str, above: Span | None = None) -> Span:
        operation = {"dspy.operation": name.partition(" ")[0]}
        context = None if above is None else set_span_in_context(above)
        span = self._tracer.start_span(name, context, attributes=operation)
        assert isinstance(span, Span)
        return span

    def example(self, evaluation: Span) -> Span:
        span = self._tracer.start_span(
            "example 0",
            set_span_in_context(INVALID_SPAN),
            attributes=EVALUATION_ID,
            links=[Link(evaluation.get_span_context())],
        )
        assert isinstance(span, Span)
        return span


def run(span: Span) -> RunOfSpan:
    return RunOfSpan(format_span_id(span.get_span_context().span_id), span.name)


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)


def test_an_evaluation_and_its_examples_name_their_run() -> None:
    program = Program(log_evals=True)
    evaluation = program.start("evaluate agrees")
    example = program.example(evaluation)
    assert run_path_of(evaluation.attributes) == (run(evaluation),)
    assert run_path_of(example.attributes) == (run(evaluation),)
    assert type((example.attributes or {})[RUNS]) is str


def test_the_runs_around_an_evaluation_come_first() -> None:
    program = Program(log_evals=True, log_compiles=True)
    compiled = program.start("compile GEPA")
    between = program.start("module", compiled)
    evaluation = program.start("evaluate agrees", between)
    example = program.example(evaluation)
    inner = program.start("evaluate judged", program.start("module", example))
    whole = (run(compiled), run(evaluation))
    assert run_path_of(example.attributes) == whole
    assert run_path_of(program.example(inner).attributes) == (*whole, run(inner))
    assert RUNS not in (between.attributes or {})


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, []),
        ({"log_evals": True}, ["evaluate agrees"]),
        ({"log_compiles": True}, ["compile GEPA"]),
    ],
)
def test_only_what_is_logged_is_a_run(settings: dict[str, bool], names: list[str]) -> None:
    program = Program(**settings)
    evaluation = program.start("evaluate agrees", program.start("compile GEPA"))
    found = run_path_of(program.example(evaluation).attributes)
    assert [one.name for one in found] == names


def test_a_program_that_calls_itself_is_cut() -> None:
    program = Program(log_evals=True)
    span: Span | None = None
    for _ in range(20):
        span = program.start("evaluate agrees", span)
    assert span is not None
    path = run_path_of(span.attributes)
    assert (len(path), path[-1]) == (8, run(span))


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", '[["a"]]', "[[]]", '["ab"]'])
def test_a_damaged_path_is_no_path(text: str) -> None:
    found = run_path_of({RUNS: text})
    assert found in ((), (RunOfSpan("a", "b"),))
