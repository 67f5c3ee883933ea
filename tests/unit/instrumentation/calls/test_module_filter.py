# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``module_filter``: which modules are recorded, and what is recorded below the others."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest
from dspy.utils import DummyLM
from dspy.utils.exceptions import AdapterParseError
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from opentelemetry.instrumentation.dspy import DSPyInstrumentor, current_dspy_call
from tests.support.agents import FINAL, MODES, run, search
from tests.support.lms import EchoLM
from tests.support.prompt_lm import PromptLM
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

QA = "question -> answer"


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        return self.predict(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.predict.acall(question=question)


class Middle(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.tool = dspy.Tool(lambda text: text, name="read")

    def forward(self, question: str) -> Any:
        self.tool(text="before")
        return self.inner(question)

    async def aforward(self, question: str) -> Any:
        await self.tool.acall(text="before")
        return await self.inner.acall(question)


class Outer(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.middle = Middle()
        self.last = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        self.middle(question)
        return self.last(question=question)

    async def aforward(self, question: str) -> Any:
        await self.middle.acall(question)
        return await self.last.acall(question=question)


@pytest.fixture(autouse=True)
def lm() -> Iterator[None]:
    with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
        yield


def call(program: Any, asynchronous: bool = False) -> None:
    if asynchronous:
        asyncio.run(program.acall("why?"))
    else:
        program("why?")


BOTH = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])

TREES = {
    "Outer": """\
invoke_workflow Outer
├─ execute_tool read
├─ ChatAdapter
│  └─ chat echo
└─ ChatAdapter
   └─ chat echo""",
    "Middle": """\
invoke_workflow Middle
├─ execute_tool read
└─ ChatAdapter
   └─ chat echo""",
    "Inner": """\
invoke_workflow Inner
└─ ChatAdapter
   └─ chat echo""",
    "Outer,Predict": """\
invoke_workflow Outer
├─ execute_tool read
├─ Predict middle.inner
│  └─ ChatAdapter
│     └─ chat echo
└─ Predict last
   └─ ChatAdapter
      └─ chat echo""",
    "Middle,Predict": """\
invoke_workflow Middle
├─ execute_tool read
└─ Predict inner
   └─ ChatAdapter
      └─ chat echo
invoke_workflow Predict question -> answer
└─ ChatAdapter
   └─ chat echo""",
    "*ut?r": """\
invoke_workflow Outer
├─ execute_tool read
├─ ChatAdapter
│  └─ chat echo
└─ ChatAdapter
   └─ chat echo""",
}


@BOTH
@pytest.mark.parametrize("chosen", TREES)
def test_selected_modules_and_what_is_below_them(
    trace_with: TraceWith, chosen: str, asynchronous: bool
) -> None:
    traced = trace_with(module_filter=chosen)
    call(Outer(), asynchronous)
    assert traced.tree() == TREES[chosen]


@BOTH
def test_below_an_outermost_module_that_is_not_selected_nothing_is_recorded(
    trace_with: TraceWith, asynchronous: bool
) -> None:
    reader = InMemoryMetricReader()
    traced = trace_with(module_filter="Other", meter_provider=MeterProvider([reader]))
    call(Outer(), asynchronous)
    assert traced.names() == []
    assert reader.get_metrics_data() is None
    assert current_dspy_call() is None


@BOTH
def test_a_selected_module_below_belongs_to_the_nearest_traced_span(
    trace_with: TraceWith, asynchronous: bool
) -> None:
    traced = trace_with(module_filter=["Inner"])
    with traced.tracer.start_as_current_span("request"):
        call(Outer(), asynchronous)
    assert (
        traced.tree()
        == """\
request
└─ invoke_workflow Inner
   └─ ChatAdapter
      └─ chat echo"""
    )


@pytest.mark.parametrize(
    "chosen",
    [
        "Inner,Pred*",
        " Inner , Pred* ",
        ["Inner", "Pred*"],
        ("Inner,Pred*",),
        lambda name: name in ("Inner", "Predict"),
        ["Inner", lambda name: name.startswith("Pred")],
        f"{__name__}:is_chosen",
        f"{__name__}.is_chosen",
    ],
)
def test_the_forms_of_a_filter(trace_with: TraceWith, chosen: Any) -> None:
    traced = trace_with(module_filter=chosen)
    Middle()("why?")
    assert traced.names() == ["chat echo", "ChatAdapter", "Predict", "invoke_workflow Inner"]


def is_chosen(name: str) -> bool:
    return name in ("Inner", "Predict")


def test_upper_and_lower_case_differ(trace_with: TraceWith) -> None:
    traced = trace_with(module_filter="inner")
    Middle()("why?")
    assert traced.names() == []


def test_the_function_is_asked_once_for_each_class(trace_with: TraceWith) -> None:
    asked: list[str] = []

    def select(name: str) -> bool:
        asked.append(name)
        return name == "Middle"

    traced = trace_with(module_filter=select)
    program = Outer()

    def work(_: int) -> None:
        with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
            program("why?")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert Counter(asked) == {"Outer": 1, "Middle": 1, "Inner": 1, "Predict": 1}
    assert traced.names().count("invoke_workflow Middle") == 40


def test_classes_are_not_kept_alive(trace_with: TraceWith) -> None:
    trace_with(module_filter="Other")

    def use() -> weakref.ref[type]:
        local = type("Local", (dspy.Module,), {"forward": lambda self: 1})
        local()()
        return weakref.ref(local)

    found = use()
    gc.collect()
    assert found() is None


def test_a_function_that_raises_selects_nothing(
    trace_with: TraceWith, telemetry_log: TelemetryLog
) -> None:
    def select(name: str) -> bool:
        raise LookupError("secret")

    traced = trace_with(module_filter=["Inner", select])
    for _ in range(2):
        Outer()("why?")
    assert traced.names().count("invoke_workflow Inner") == 2
    assert "ChatAdapter" not in {span.name for span in traced.spans if span.parent is None}
    [line] = telemetry_log.take()
    assert "module_filter raised LookupError" in line
    assert "secret" not in line


def test_calls_outside_of_modules_are_recorded(trace_with: TraceWith) -> None:
    traced = trace_with(module_filter="Other")
    dspy.Tool(lambda text: text, name="read")(text="a")
    EchoLM()("hello")
    assert traced.names() == ["execute_tool read", "chat echo"]


# --- threads, streams, agents, generators, evaluations -------------------------------------------


def test_parallel(trace_with: TraceWith) -> None:
    traced = trace_with(module_filter="Inner,Predict")
    program = Outer()
    pairs = [(program, {"question": f"{number}?"}) for number in range(4)]
    dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)
    names = Counter(traced.names())
    assert names["parallel"] == 1
    assert names["invoke_workflow Inner"] == 4
    assert names["Predict"] == 4
    assert names["execute_tool read"] == 0
    [root] = [span for span in traced.spans if span.parent is None]
    assert root.name == "parallel"


def test_parallel_inside_of_a_selected_module(trace_with: TraceWith) -> None:
    class Fan(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, question: str) -> Any:
            pairs = [(self.inner, {"question": question})] * 3
            return dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)

    traced = trace_with(module_filter="Fan")
    Fan()("why?")
    names = Counter(traced.names())
    assert names == {
        "invoke_workflow Fan": 1,
        "parallel": 1,
        "ChatAdapter": 3,
        "chat echo": 3,
    }


AGENT = """\
invoke_agent ReAct question -> answer {dspy.agent.step.count=2, dspy.agent.termination=finish}
├─ chat dummy
├─ execute_tool search {dspy.agent.step.index=0}
├─ chat dummy
└─ chat dummy"""
"""The steps are counted although the predictors of the agent have no spans."""


@MODES
async def test_an_agent(trace_with: TraceWith, mode: str) -> None:
    answers = [
        {"next_thought": "a", "next_tool_name": "search", "next_tool_args": '{"query": "q"}'},
        {"next_thought": "b", "next_tool_name": "finish", "next_tool_args": "{}"},
        FINAL,
    ]
    shown = ("dspy.agent.step.index", "dspy.agent.step.count", "dspy.agent.termination")
    traced = trace_with(module_filter="ReAct", capture_intermediate_steps=False)
    agent = dspy.ReAct(QA, tools=[search], max_iters=4)
    await run(agent, mode, DummyLM(answers), question="q")
    assert traced.tree(*shown) == AGENT

    traced = trace_with(module_filter="ChainOfThought", capture_intermediate_steps=False)
    await run(agent, mode, DummyLM(answers), question="q")
    [root] = [span for span in traced.spans if span.parent is None]
    assert root.name.startswith("invoke_workflow ChainOfThought")
    assert not any(name.startswith("execute_tool") for name in traced.names())


def test_attempts_are_counted(trace_with: TraceWith) -> None:
    traced = trace_with(module_filter="BestOfN")
    best = dspy.BestOfN(dspy.Predict(QA), N=3, reward_fn=lambda *_: 0.5, threshold=1.0)
    best(question="why?")
    attributes = traced.attributes("invoke_workflow BestOfN")
    assert attributes["dspy.attempt.count"] == 3


async def test_streams(trace_with: TraceWith) -> None:
    traced = trace_with(module_filter="Inner")
    with dspy.context(lm=PromptLM(answers=["a"])):
        async for _ in dspy.streamify(Outer())(question="q"):
            assert current_dspy_call() is None
        assert [name for name in traced.names() if name.startswith("invoke")] == [
            "invoke_workflow Inner"
        ]
        traced.clear()
        async for _ in dspy.streamify(Inner())(question="q"):
            pass
        assert traced.names()[-1] == "invoke_workflow Inner"
        traced.clear()
        async for _ in dspy.streamify(dspy.Predict(QA))(question="q"):
            pass
        for _ in dspy.streamify(dspy.Predict(QA), async_streaming=False)(question="q"):
            pass
    assert traced.names() == []


async def test_a_stream_inside_of_a_selected_module(trace_with: TraceWith) -> None:
    class Streaming(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        async def aforward(self, question: str) -> Any:
            return [item async for item in dspy.streamify(self.inner)(question=question)]

    traced = trace_with(module_filter="Streaming,Predict")
    with dspy.context(lm=PromptLM(answers=["a"])):
        await Streaming().acall("q")
    assert traced.tree() == (
        "invoke_workflow Streaming\n└─ Predict inner\n   └─ ChatAdapter\n      └─ chat prompt-lm"
    )


class Generating(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        for _ in range(2):
            yield self.predict(question=question)


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("Other", []),
        ("Generating", ["invoke_workflow Generating", *["chat echo", "ChatAdapter"] * 2]),
        ("Predict", ["chat echo", "ChatAdapter", "invoke_workflow Predict question -> answer"] * 2),
    ],
)
def test_a_generator_that_a_module_returns(
    trace_with: TraceWith, chosen: str, names: list[str]
) -> None:
    traced = trace_with(module_filter=chosen)
    for _ in Generating()("why?"):
        pass
    assert traced.names() == names


def test_evaluations(trace_with: TraceWith) -> None:
    devset = [dspy.Example(question=f"{number}?").with_inputs("question") for number in range(2)]
    traced = trace_with(module_filter="Inner")
    dspy.Evaluate(devset=devset, metric=lambda *_: 1.0, num_threads=2, display_progress=False)(
        Middle()
    )
    names = Counter(traced.names())
    assert names["execute_tool read"] == 0
    assert names["invoke_workflow Inner"] == 2
    by_id = {span.context.span_id: span.name for span in traced.spans if span.context}
    parents = {
        by_id[span.parent.span_id][:8]
        for span in traced.spans
        if span.name == "invoke_workflow Inner" and span.parent
    }
    assert parents == {"example "}


def test_failures_reach_the_program_and_the_selected_span(trace_with: TraceWith) -> None:
    class Failing(dspy.Module):
        def forward(self, question: str) -> Any:
            raise LookupError("no")

    class Around(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.failing = Failing()

        def forward(self, question: str) -> Any:
            return self.failing(question)

    traced = trace_with(module_filter="Around")
    with pytest.raises(LookupError):
        Around()("why?")
    with pytest.raises(LookupError):
        Failing()("why?")
    [span] = traced.spans
    [event] = span.events
    assert "exception.stacktrace" in dict(event.attributes or {})
    assert current_dspy_call() is None


def test_failures_of_adapters_without_spans(trace_with: TraceWith) -> None:
    traced = trace_with(module_filter="Inner", capture_intermediate_steps=False)
    with (
        dspy.context(lm=EchoLM("nonsense"), adapter=dspy.JSONAdapter()),
        pytest.raises(AdapterParseError),
    ):
        Inner()("why?")
    attributes = traced.attributes("invoke_workflow Inner")
    assert attributes["dspy.adapter.type"] == "JSONAdapter"
    assert "AdapterParseError" in attributes["dspy.adapter.parse.error_type"]


def test_a_method_that_returns_a_coroutine(trace_with: TraceWith) -> None:
    class Later(dspy.Module):
        def acall(self, question: str) -> Any:
            return self._later(question)

        async def _later(self, question: str) -> Any:
            return await dspy.Predict(QA).acall(question=question)

    traced = trace_with(module_filter="Other")
    asyncio.run(Later().acall("why?"))
    assert traced.names() == []


# --- switching -----------------------------------------------------------------------------------


def test_a_trace_is_completed_as_it_has_begun(trace_with: TraceWith) -> None:
    class Switching(dspy.Module):
        def __init__(self, chosen: Any) -> None:
            super().__init__()
            self.chosen = chosen
            self.inner = Inner()

        def forward(self, question: str) -> Any:
            DSPyInstrumentor().select(module_filter=self.chosen)
            return self.inner(question)

    traced = trace_with()
    whole = ["chat echo", "ChatAdapter", "Predict inner", "Inner"]
    Switching("Switching")("why?")
    assert traced.names() == [*whole, "invoke_workflow Switching"]
    traced.clear()
    Switching("Other")("why?")
    assert traced.names() == ["chat echo", "ChatAdapter", "invoke_workflow Switching"]
    traced.clear()
    Switching(None)("why?")
    assert traced.names() == []
    Switching(None)("why?")
    assert traced.names() == [*whole, "invoke_workflow Switching"]
    settings = DSPyInstrumentor().settings
    assert settings is not None
    assert settings.module_filter is None


def test_switches_under_load_lose_and_divide_no_trace(trace_with: TraceWith) -> None:
    traced = trace_with()
    program, stop = Inner(), threading.Event()
    calls = [0] * 8

    def work(number: int) -> None:
        with dspy.context(lm=EchoLM(), adapter=dspy.ChatAdapter()):
            while not stop.is_set():
                program("why?")
                calls[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(250):
        for chosen in ("Inner", "Inner,Predict", lambda name: name != "Other", None):
            DSPyInstrumentor().select(module_filter=chosen)
    stop.set()
    for thread in threads:
        thread.join()
    by_trace: dict[int, list[str]] = {}
    for span in traced.spans:
        assert span.context is not None
        by_trace.setdefault(span.context.trace_id, []).append(span.name)
    whole = ["chat echo", "ChatAdapter", "invoke_workflow Inner"]
    with_predict = ["chat echo", "ChatAdapter", "Predict", "invoke_workflow Inner"]
    assert all(names in (whole, with_predict) for names in by_trace.values())
    assert len(by_trace) == sum(calls)


def test_nothing_is_selected_while_dspy_is_not_instrumented() -> None:
    DSPyInstrumentor().select(module_filter="Inner")
    assert DSPyInstrumentor().settings is None
