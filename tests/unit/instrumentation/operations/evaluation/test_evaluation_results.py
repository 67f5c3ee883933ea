# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``gen_ai.evaluation.result``: a log record below the evaluated span, or an event of a span."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from opentelemetry.sdk._logs import LoggerProvider

from tests.support.lms import EchoLM
from tests.support.logged import Logged
from tests.support.registry import REGISTRY
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("example")

NAME = "gen_ai.evaluation.result"
EXAMPLE = dspy.Example(question="q", answer="blue").with_inputs("question")


def evaluate(metric: Any, program: Any = None) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Evaluate(devset=[EXAMPLE], metric=metric, num_threads=1)(
            program or dspy.Predict("question -> answer")
        )


def agrees(example: Any, prediction: Any) -> bool:
    return example.answer == prediction.answer


def explained(example: Any, prediction: Any) -> Any:
    return dspy.Prediction(score=0.25, feedback="canary-1", label="canary-2")


def judged(example: Any, prediction: Any) -> float:
    dspy.settings.lm("is it right?")
    dspy.Predict("question -> answer")(question="is it right?")
    return 0.5


def with_logs(trace_with: TraceWith, mode: Any = True, **settings: Any) -> tuple[Traced, Logged]:
    logged = Logged()
    return trace_with(capture_content=mode, logger_provider=logged.provider, **settings), logged


@pytest.mark.parametrize("mode", [False, True, "EVENT_ONLY", "SPAN_AND_EVENT"])
def test_a_score_is_a_log_record_below_the_evaluated_span(trace_with: TraceWith, mode: Any) -> None:
    traced, logged = with_logs(trace_with, mode)
    evaluate(agrees)
    (record,) = logged.named(NAME)
    program = traced.span("invoke_workflow Predict").get_span_context()
    assert (record.trace_id, record.span_id) == (program.trace_id, program.span_id)
    assert dict(record.attributes) == {
        "gen_ai.evaluation.name": "agrees",
        "gen_ai.evaluation.score.value": 1.0,
        "gen_ai.evaluation.score.label": "pass",
        "gen_ai.response.id": "response-1",
    }
    assert set(record.attributes) <= set(REGISTRY)
    assert [event for span in traced.spans for event in span.events] == []
    assert traced.attributes("example")["dspy.example.score"] == 1.0


def test_a_metric_that_says_no(trace_with: TraceWith) -> None:
    _, logged = with_logs(trace_with)
    evaluate(lambda example, prediction: False)
    (record,) = logged.named(NAME)
    assert record.attributes["gen_ai.evaluation.score.label"] == "fail"


def test_calls_of_the_metric_are_not_the_evaluated_ones(trace_with: TraceWith) -> None:
    traced, logged = with_logs(trace_with)
    evaluate(judged)
    (record,) = logged.named(NAME)
    programs = [span for span in traced.spans if span.name.startswith("invoke_workflow Predict")]
    below = {span.parent.span_id: span for span in programs if span.parent is not None}
    example = traced.span("example").get_span_context()
    evaluated = below[example.span_id].get_span_context()
    assert record.span_id == evaluated.span_id


def test_a_program_that_is_no_module(trace_with: TraceWith) -> None:
    traced, logged = with_logs(trace_with)
    evaluate(agrees, lambda question: dspy.Prediction(answer="blue"))
    (record,) = logged.named(NAME)
    assert record.span_id == traced.span("example").get_span_context().span_id
    assert "gen_ai.response.id" not in record.attributes


@pytest.mark.parametrize("mode", [False, True, "EVENT_ONLY", "SPAN_AND_EVENT"])
def test_explanations_are_content(trace_with: TraceWith, mode: Any) -> None:
    traced, logged = with_logs(trace_with, mode)
    evaluate(explained)
    (record,) = logged.named(NAME)
    in_events, in_spans = "EVENT" in str(mode), mode is True or mode == "SPAN_AND_EVENT"
    assert ("gen_ai.evaluation.explanation" in record.attributes) == in_events
    assert ("canary" in str(dict(record.attributes))) == in_events
    assert ("canary" in everything_in(traced.spans)) == in_spans
    shown = traced.attributes("metric explained")
    assert ("gen_ai.evaluation.explanation" in shown) == in_spans


def test_explanations_are_redacted(trace_with: TraceWith) -> None:
    traced, logged = with_logs(trace_with, "SPAN_AND_EVENT", redact="regex:canary-[0-9]")
    evaluate(explained)
    (record,) = logged.named(NAME)
    assert "gen_ai.evaluation.explanation" in record.attributes
    assert "canary" not in str(dict(record.attributes)) + everything_in(traced.spans)


@pytest.mark.parametrize("logs", ["none", "no processor"])
def test_without_logs_it_is_an_event_of_the_example(trace_with: TraceWith, logs: str) -> None:
    provider = None if logs == "none" else LoggerProvider(shutdown_on_exit=False)
    traced = trace_with(logger_provider=provider)
    evaluate(explained)
    if logs != "none" and not hasattr(provider.get_logger("x"), "enabled"):
        pytest.skip("this release of the API cannot tell whether anything receives records")
    (event,) = traced.span("example").events
    assert event.name == NAME
    assert (event.attributes or {})["gen_ai.evaluation.explanation"] == "canary-1"
    assert (event.attributes or {})["gen_ai.evaluation.score.label"] == "canary-2"
