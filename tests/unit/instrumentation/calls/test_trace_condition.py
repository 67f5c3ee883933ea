# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``trace_condition``: asked once for each outermost call, with its arguments by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from opentelemetry.instrumentation.dspy import DSPyInstrumentor, current_dspy_call
from tests.support.lms import EchoLM
from tests.support.prompt_lm import PromptLM
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

QA = "question -> answer"
BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict(QA)

    def forward(self, question: str, k: int = 3, *rest: Any, **others: Any) -> Any:
        return self.predict(question=question)

    async def aforward(self, question: str, k: int = 3, *rest: Any, **others: Any) -> Any:
        return await self.predict.acall(question=question)


class Condition:
    """A condition that notes what it is asked."""

    def __init__(self, answer: Any = True) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    def __call__(self, inputs: dict[str, Any]) -> Any:
        self.asked.append(dict(inputs))
        return self.answer(inputs) if callable(self.answer) else self.answer


@pytest.fixture(autouse=True)
def lm() -> Iterator[None]:
    with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
        yield


def run(asynchronous: bool, *args: Any, **kwargs: Any) -> Any:
    program = Program()
    return asyncio.run(program.acall(*args, **kwargs)) if asynchronous else program(*args, **kwargs)


@BOTH
@pytest.mark.parametrize(
    ("args", "kwargs", "inputs"),
    [
        (("why?",), {}, {"question": "why?"}),
        (("why?", 5), {}, {"question": "why?", "k": 5}),
        (("why?",), {"k": 5}, {"question": "why?", "k": 5}),
        ((), {"k": 5, "question": "why?"}, {"question": "why?", "k": 5}),
        (("why?", 5, "more"), {}, {"question": "why?", "k": 5, "args": ["more"]}),
        (("why?",), {"tenant": "acme"}, {"question": "why?", "tenant": "acme"}),
    ],
)
def test_arguments_are_bound_to_the_parameters_of_forward(
    trace_with: TraceWith,
    asynchronous: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    inputs: dict[str, Any],
) -> None:
    condition = Condition()
    traced = trace_with(trace_condition=condition)
    run(asynchronous, *args, **kwargs)
    assert condition.asked == [inputs]
    assert traced.names()[-1] == "invoke_workflow Program"
    assert len(traced.names()) == 4


@BOTH
def test_after_a_no_nothing_of_the_call_is_recorded(
    trace_with: TraceWith, asynchronous: bool
) -> None:
    reader = InMemoryMetricReader()
    condition = Condition(lambda inputs: inputs["question"] != "secret")
    traced = trace_with(trace_condition=condition, meter_provider=MeterProvider([reader]))
    run(asynchronous, question="secret")
    assert traced.names() == []
    assert reader.get_metrics_data() is None
    run(asynchronous, question="why?")
    assert len(traced.names()) == 4
    assert len(condition.asked) == 2
    assert current_dspy_call() is None


@BOTH
def test_spans_above_are_not_touched(trace_with: TraceWith, asynchronous: bool) -> None:
    traced = trace_with(trace_condition=Condition(False))
    with traced.tracer.start_as_current_span("request"):
        run(asynchronous, "why?")
        with traced.tracer.start_as_current_span("after"):
            pass
    assert traced.tree() == "request\n└─ after"


def test_the_function_gets_a_copy(trace_with: TraceWith) -> None:
    traced = trace_with(trace_condition=lambda inputs: inputs.clear() or True)
    kwargs = {"question": "why?"}
    Program()(**kwargs)
    assert traced.content("invoke_workflow Program", "dspy.module.input") == kwargs


def test_calls_that_are_not_of_modules(trace_with: TraceWith) -> None:
    condition = Condition()
    trace_with(trace_condition=condition)
    dspy.Tool(lambda text: text, name="read")(text="a")
    EchoLM()("hello")
    dspy.Parallel(num_threads=1, disable_progress_bar=True)([(Program(), {"question": "a"})])
    assert condition.asked[:2] == [{"text": "a"}, {"prompt": "hello"}]
    assert [list(inputs) for inputs in condition.asked[2:]] == [["exec_pairs"]]


def test_a_call_in_threads_is_asked_about_once(trace_with: TraceWith) -> None:
    class Fan(dspy.Module):
        def forward(self, question: str) -> Any:
            pairs = [(Program(), {"question": question})] * 4
            return dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)

    condition = Condition()
    traced = trace_with(trace_condition=condition)
    Fan()("why?")
    assert len(condition.asked) == 1
    traced.clear()
    condition.answer = False
    Fan()("why?")
    assert len(condition.asked) == 2
    assert traced.names() == []


async def test_streams(trace_with: TraceWith) -> None:
    condition = Condition(lambda inputs: inputs["question"] == "why?")
    traced = trace_with(trace_condition=condition)
    with dspy.context(lm=PromptLM(answers=["a"])):
        for question in ("why?", "secret"):
            async for _ in dspy.streamify(Program())(question=question):
                pass
    assert condition.asked == [{"question": "why?"}, {"question": "secret"}]
    assert traced.names().count("invoke_workflow Program") == 1
    assert len(traced.names()) == 4


def test_a_generator_of_a_call_that_is_not_recorded(trace_with: TraceWith) -> None:
    class Generating(dspy.Module):
        def forward(self, question: str) -> Any:
            for _ in range(2):
                yield dspy.Predict(QA)(question=question)

    condition = Condition(False)
    traced = trace_with(trace_condition=condition)
    for _ in Generating()("why?"):
        pass
    assert traced.names() == []
    assert len(condition.asked) == 1


def test_a_condition_and_a_filter(trace_with: TraceWith) -> None:
    class Outer(dspy.Module):
        def forward(self, question: str, tenant: str) -> Any:
            Program()(question)
            return Program()(question)

    condition = Condition(lambda inputs: inputs["tenant"] == "acme")
    traced = trace_with(trace_condition=condition, module_filter="Program")
    Outer()("why?", tenant="other")
    assert traced.names() == []
    Outer()("why?", tenant="acme")
    assert traced.names().count("invoke_workflow Program") == 2
    # About the outermost call, although it has no span itself.
    assert [inputs["tenant"] for inputs in condition.asked] == ["other", "acme"]


@BOTH
def test_a_function_that_raises_says_no(
    trace_with: TraceWith, telemetry_log: TelemetryLog, asynchronous: bool
) -> None:
    traced = trace_with(trace_condition=lambda inputs: inputs["tenant"] == "acme")
    for _ in range(3):
        assert run(asynchronous, "why?").answer == "blue"
    assert traced.names() == []
    [line] = telemetry_log.take()
    assert "trace_condition raised KeyError" in line
    assert "tenant" not in line
    run(asynchronous, "why?", tenant="acme")
    assert len(traced.names()) == 4


def test_what_the_program_does_at_its_end_is_passed_on(trace_with: TraceWith) -> None:
    trace_with(trace_condition=Condition(False))
    with pytest.raises(TypeError):
        Program()()
    assert current_dspy_call() is None


def test_a_condition_may_call_dspy(trace_with: TraceWith) -> None:
    judge = Program()
    traced = trace_with(trace_condition=lambda inputs: judge(inputs["question"]).answer == "blue")
    Program()("why?")
    assert len(traced.names()) == 4


def test_another_condition_from_now_on(trace_with: TraceWith) -> None:
    traced = trace_with()
    DSPyInstrumentor().select(trace_condition=Condition(False))
    Program()("why?")
    assert traced.names() == []
    DSPyInstrumentor().select()
    Program()("why?")
    assert len(traced.names()) == 4
