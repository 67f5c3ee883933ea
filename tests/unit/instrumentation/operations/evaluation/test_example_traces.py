# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluations of which each example is a trace of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import dspy
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tests.support.prompt_lm import PromptLM
from tests.support.span_tree import assert_one_tree, span_tree, spans_named
from tests.support.traced import everything_in
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = [pytest.mark.surface("Evaluate"), pytest.mark.surface("example")]

EXAMPLES = [
    dspy.Example(question=f"q{number}", answer="a").with_inputs("question") for number in range(4)
]


def agrees(example: Any, prediction: Any, trace: Any = None) -> bool:
    return example.answer == prediction.answer


def evaluate(
    program: Any = None, metric: Any = agrees, threads: int = 2, devset: Any = EXAMPLES
) -> Any:
    program = program or dspy.Predict("question -> answer")
    with dspy.context(lm=PromptLM(answers=["a"])):
        return dspy.Evaluate(devset=devset, metric=metric, num_threads=threads)(program)


def by_trace(spans: Sequence[ReadableSpan]) -> list[list[ReadableSpan]]:
    found: dict[int, list[ReadableSpan]] = defaultdict(list)
    for span in spans:
        assert span.context is not None
        found[span.context.trace_id].append(span)
    return list(found.values())


@pytest.mark.parametrize("threads", [1, 4])
def test_each_example_is_a_trace_with_a_link_to_its_evaluation(
    trace_with: TraceWith, threads: int
) -> None:
    traced = trace_with(evaluation_traces="per_example")

    evaluate(threads=threads)

    traces = {assert_one_tree(spans).name: spans for spans in by_trace(traced.spans)}
    assert set(traces) == {"evaluate agrees", "example 0", "example 1", "example 2", "example 3"}
    [evaluation] = traces.pop("evaluate agrees")
    for spans in traces.values():
        root = spans[-1]  # the last span that ended
        assert root.attributes is not None
        trace_id = root.attributes["dspy.evaluate.trace_id"]
        assert trace_id == trace.format_trace_id(evaluation.context.trace_id)
        assert type(trace_id) is str
        assert root.attributes["dspy.evaluate.span_id"] == trace.format_span_id(
            evaluation.context.span_id
        )
        assert root.attributes["dspy.evaluate.metric"] == "agrees"
        assert root.attributes["dspy.example.label_fields"] == ("answer",)
        assert root.attributes["gen_ai.evaluation.score.label"] == "pass"
        [link] = root.links
        assert link.context == evaluation.context
        assert root.attributes["dspy.example.score"] == 1.0
        assert [span.name for span in spans_named(spans, "metric agrees")] == ["metric agrees"]
        assert spans_named(spans, "chat")


def test_by_default_an_evaluation_is_one_tree(trace_with: TraceWith) -> None:
    traced = trace_with()
    evaluate()
    root = assert_one_tree(traced.spans)
    examples = [span for span in traced.spans if span.name.startswith("example ")]
    assert root.name == "evaluate agrees"
    assert [span.links for span in examples] == [()] * 4
    assert all("dspy.evaluate.trace_id" not in (span.attributes or {}) for span in examples)


def test_the_evaluation_has_the_same_figures(trace_with: TraceWith) -> None:
    def sometimes(example: Any, prediction: Any) -> float:
        if example.question == "q1":
            raise ZeroDivisionError("no score")
        return 0.5

    traced = trace_with(evaluation_traces="per_example")
    result = evaluate(metric=sometimes)
    evaluation = traced.span("evaluate sometimes")
    assert evaluation.attributes is not None
    assert evaluation.attributes["dspy.evaluate.score"] == result.score
    assert evaluation.attributes["dspy.evaluate.error.count"] == 1
    assert traced.span("example 1").status.description == "ZeroDivisionError: no score"


def test_a_span_around_the_evaluation_is_not_above_its_examples(trace_with: TraceWith) -> None:
    traced = trace_with(evaluation_traces="per_example")
    seen: list[object] = []

    def looks(example: Any, prediction: Any) -> bool:
        seen.append(baggage.get_baggage("tenant"))
        return True

    token = context.attach(baggage.set_baggage("tenant", "north"))
    try:
        with traced.tracer.start_as_current_span("outer") as outer:
            evaluate(metric=looks)
            assert trace.get_current_span() is outer
    finally:
        context.detach(token)
    tops = {assert_one_tree(spans).name for spans in by_trace(traced.spans)}
    assert tops == {"outer", "example 0", "example 1", "example 2", "example 3"}
    assert seen == ["north"] * 4


def test_an_evaluation_inside_of_an_example(trace_with: TraceWith) -> None:
    class Tested(dspy.Module):
        def forward(self, question: str) -> Any:
            inner = [dspy.Example(question="inner", answer="a").with_inputs("question")]
            evaluate(devset=inner)
            return dspy.Prediction(answer="a")

    traced = trace_with(evaluation_traces="per_example")
    evaluate(Tested(), devset=EXAMPLES[:1])
    tops = sorted(assert_one_tree(spans).name for spans in by_trace(traced.spans))
    assert tops == ["evaluate agrees", "example 0", "example 0"]
    outer, inner = sorted(
        (span for span in traced.spans if span.name == "example 0"), key=lambda s: s.start_time or 0
    )
    assert inner.links[0].context.trace_id == outer.context.trace_id  # type: ignore[union-attr]


def test_the_trials_of_an_optimizer_stay_its_trials(trace_with: TraceWith) -> None:
    traced = trace_with(evaluation_traces="per_example")
    program = dspy.Predict("question -> answer")
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=agrees, max_bootstrapped_demos=1, max_labeled_demos=1, num_candidate_programs=1
    )
    with dspy.context(lm=PromptLM(answers=["a"])):
        optimizer.compile(program, trainset=EXAMPLES, valset=EXAMPLES[:2])
    evaluations = [span for span in traced.spans if span.name == "evaluate agrees"]
    indices = [span.attributes["dspy.optimizer.trial.index"] for span in evaluations]  # type: ignore[index]
    assert indices == list(range(len(evaluations)))
    compiled = traced.span("compile BootstrapFewShotWithRandomSearch")
    assert {span.context.trace_id for span in evaluations} == {compiled.context.trace_id}
    examples = [span for span in traced.spans if span.name.startswith("example ")]
    assert len(examples) == 2 * len(evaluations)
    assert all(span.parent is None for span in examples)


def explained(example: Any, prediction: Any, trace: Any = None) -> Any:
    return dspy.Prediction(score=0.25, feedback="Too short.")


@pytest.mark.parametrize(
    ("settings", "feedback", "labels"),
    [
        ({}, "Too short.", ("answer",)),
        ({"capture_outputs": False}, None, ("answer",)),
        ({"capture_inputs": False}, "Too short.", None),
        ({"capture_content": False}, None, None),
    ],
)
def test_the_outcome_stands_on_the_first_span(
    trace_with: TraceWith, settings: dict[str, Any], feedback: str | None, labels: object
) -> None:
    traced = trace_with(evaluation_traces="per_example", **settings)
    evaluate(metric=explained, devset=EXAMPLES[:1])
    attributes = traced.span("example 0").attributes
    assert attributes is not None
    assert attributes["dspy.example.score"] == 0.25
    assert attributes.get("gen_ai.evaluation.explanation") == feedback
    assert "gen_ai.evaluation.score.label" not in attributes
    assert attributes.get("dspy.example.label_fields") == labels


def test_nothing_is_recorded_of_an_evaluation_that_is_not_sampled(trace_with: TraceWith) -> None:
    traced = trace_with(evaluation_traces="per_example", sampler=ALWAYS_OFF)
    evaluate()
    assert traced.spans == []


def test_values_of_hidden_fields_stay_hidden_in_the_trace_of_an_example(
    trace_with: TraceWith,
) -> None:
    traced = trace_with(evaluation_traces="per_example", redact="field:question")
    secrets = [
        dspy.Example(question=f"the secret {number}", answer="a").with_inputs("question")
        for number in range(3)
    ]

    class Asks(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict("text -> answer")

        def forward(self, question: str) -> Any:
            with traced.tracer.start_as_current_span("program's own"):
                return self.answer(text=question)

    evaluate(Asks(), devset=secrets)
    assert len(by_trace(traced.spans)) == 4
    assert "the secret" not in everything_in(traced.spans), span_tree(traced.spans)


def test_the_program_gets_the_same_results(trace_with: TraceWith) -> None:
    plain = evaluate()
    trace_with(evaluation_traces="per_example")
    assert repr(evaluate().results) == repr(plain.results)
