# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One trace, whatever threads and tasks lie between a call and those it makes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import dspy
import pytest
from opentelemetry import context as context_api
from opentelemetry import trace

from tests.support.lms import EchoLM
from tests.support.span_tree import assert_one_tree, spans_named
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = [pytest.mark.surface("ParallelExecutor"), pytest.mark.surface("asyncio")]

QA = "question -> answer"


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        return self.generate(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.generate.acall(question=question)


def examples(count: int) -> list[dspy.Example]:
    made = [dspy.Example(question=f"q{number}", answer="blue") for number in range(count)]
    return [example.with_inputs("question") for example in made]


def parallel(program: Program, count: int) -> Any:
    pairs = [(program, example) for example in examples(count)]
    return dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)


def batch(program: Program, count: int) -> Any:
    return program.batch(examples(count), num_threads=4, disable_progress_bar=True)


def evaluate(program: Program, count: int) -> Any:
    def exact(example: Any, prediction: Any, trace: Any = None) -> float:
        return float(example.answer == prediction.answer)

    evaluation = dspy.Evaluate(
        devset=examples(count), metric=exact, num_threads=4, display_progress=False
    )
    return evaluation(program)


async def gather(program: Program, count: int) -> Any:
    calls = (program.acall(question=f"q{number}") for number in range(count))
    return await asyncio.gather(*calls)


async def asyncified(program: Program, count: int) -> Any:
    call = dspy.asyncify(program)
    return await asyncio.gather(*(call(question=f"q{number}") for number in range(count)))


def items(program: Program, count: int) -> list[str]:
    """The tree below each program call, as one line; all of them must be the same."""
    return ["invoke_workflow Program > Predict generate > chat echo"] * count


FAN_OUTS = [parallel, batch, evaluate, gather, asyncified]
EXAMPLES = [f"example {index}" for index in range(10)]
OWN_SPANS: dict[Any, dict[str, int]] = {
    parallel: {"parallel": 1},
    batch: {"parallel": 1},
    evaluate: {"evaluate exact": 1, **dict.fromkeys(EXAMPLES, 1), "metric exact": 10},
}
PARENTS: dict[Any, set[str]] = {
    parallel: {"parallel"},
    batch: {"parallel"},
    evaluate: set(EXAMPLES),
}


@pytest.mark.parametrize("fan_out", FAN_OUTS)
async def test_one_trace_and_no_orphan(trace_with: TraceWith, fan_out: Any) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    with (
        dspy.context(lm=EchoLM()),
        traced.tracer.start_as_current_span("request"),
    ):
        result = fan_out(Program(), 10)
        if asyncio.iscoroutine(result):
            await result
    root = assert_one_tree(traced.spans)
    assert root.name == "request"
    own = OWN_SPANS.get(fan_out, {})
    assert Counter(traced.names()) == {
        "request": 1,
        "invoke_workflow Program": 10,
        "Predict generate": 10,
        "chat echo": 10,
        **own,
    }
    above = parents(traced)
    assert above["invoke_workflow Program"] == PARENTS.get(fan_out, {"request"})
    assert above["Predict generate"] == {"invoke_workflow Program"}
    assert above["chat echo"] == {"Predict generate"}
    assert inputs_match(traced)


def parents(traced: Traced) -> dict[str, set[str]]:
    by_id = {span.context.span_id: span.name for span in traced.spans if span.context}
    found: dict[str, set[str]] = {}
    for span in traced.spans:
        if span.parent is not None:
            found.setdefault(span.name, set()).add(by_id[span.parent.span_id])
    return found


def inputs_match(traced: Traced) -> bool:
    """Whether each predictor is below the program call that called it."""
    by_id = {span.context.span_id: span for span in traced.spans if span.context}
    pairs = [
        (span, by_id[span.parent.span_id])
        for span in spans_named(traced.spans, "Predict generate")
        if span.parent
    ]
    name = "dspy.module.input"
    return all((a.attributes or {})[name] == (b.attributes or {})[name] for a, b in pairs)


def test_all_at_once_under_one_span(trace_with: TraceWith) -> None:
    traced = trace_with()

    async def all_of_them() -> None:
        await gather(Program(), 10)

    with dspy.context(lm=EchoLM()), traced.tracer.start_as_current_span("request"):
        parallel(Program(), 8)
        asyncio.run(all_of_them())
        evaluate(Program(), 8)
    assert_one_tree(traced.spans)
    assert len(spans_named(traced.spans, "chat echo")) == 26


def test_inside_of_a_program_they_belong_to_it(trace_with: TraceWith) -> None:
    class Many(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = Program()

        def forward(self, count: int) -> Any:
            return parallel(self.one, count)

    traced = trace_with(capture_intermediate_steps=False)
    with dspy.context(lm=EchoLM()):
        Many()(count=6)
    assert_one_tree(traced.spans)
    assert parents(traced)["parallel"] == {"invoke_workflow Many"}
    assert parents(traced)["Program one"] == {"parallel"}
    assert parents(traced)["Predict one.generate"] == {"Program one"}
    assert traced.attributes("invoke_workflow Many")["dspy.lm.call.count"] == 6


def test_without_a_caller_the_run_is_the_root(trace_with: TraceWith) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    with dspy.context(lm=EchoLM()):
        parallel(Program(), 4)
    assert assert_one_tree(traced.spans).name == "parallel"


@pytest.mark.parametrize("threads", [1, 4])
def test_an_item_that_fails_fails_alone(trace_with: TraceWith, threads: int) -> None:
    class Odd(Program):
        def forward(self, question: str) -> Any:
            if question == "q1":
                raise ValueError("not this one")
            return super().forward(question)

    traced = trace_with(capture_intermediate_steps=False)
    run = dspy.Parallel(
        num_threads=threads, return_failed_examples=True, disable_progress_bar=True, max_errors=5
    )
    with dspy.context(lm=EchoLM()), traced.tracer.start_as_current_span("request"):
        results, *_ = run([(Odd(), example) for example in examples(3)])
    assert [result and result.answer for result in results] == ["blue", None, "blue"]
    failures = [line for line in traced.tree().splitlines() if "ERROR" in line]
    names = [line.lstrip("│├└─ ") for line in failures]
    assert names == ["invoke_workflow Odd ERROR(ValueError)"]


def test_a_worker_thread_keeps_nothing(trace_with: TraceWith) -> None:
    """DSPy's thread has the caller's context while it works for it, and its own afterwards."""
    traced = trace_with()
    executor = dspy.utils.parallelizer.ParallelExecutor(num_threads=1, disable_progress_bar=True)
    seen: list[Any] = []
    with traced.tracer.start_as_current_span("request") as span:
        before = context_api.get_current()
        executor.execute(lambda item: seen.append(trace.get_current_span()), [1, 2])
        assert context_api.get_current() == before
    assert seen == [span, span]


def test_the_callers_context_is_as_before(traced: Traced) -> None:
    before = context_api.get_current()
    with dspy.context(lm=EchoLM()):
        Program()(question="?")
        with pytest.raises(TypeError):
            Program()(nonsense=1)
    assert context_api.get_current() == before
    assert trace.get_current_span() is trace.INVALID_SPAN
