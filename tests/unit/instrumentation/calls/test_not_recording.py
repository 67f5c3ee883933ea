# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Where nothing is recorded, nothing is made: suppressed, unsampled, and without an SDK."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from opentelemetry.instrumentation.dspy import DSPyInstrumentor, current_dspy_call
from tests.support.lms import EchoLM
from tests.support.memory import span_memory
from tests.support.traced import uninstrument
from tests.unit.instrumentation.conftest import TraceWith

QA = "question -> answer"


class Touchy:
    """Records that it is serialised."""

    def __init__(self) -> None:
        self.touched = 0

    def __repr__(self) -> str:
        self.touched += 1
        return "Touchy()"


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = dspy.ChainOfThought(QA)
        self.tool = dspy.Tool(lambda thing: thing, name="pass_on")

    def forward(self, thing: Any) -> Any:
        self.tool(thing=thing)
        EchoLM("hi")("hello")
        return thing

    async def aforward(self, thing: Any) -> Any:
        return await self.tool.acall(thing=thing)


class CountingSampler(Sampler):
    """Decides as told, and remembers what it was asked."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.calls: list[Any] = []

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        self.asked.append((name, dict(attributes or {})))
        self.calls.append(current_dspy_call(parent_context))
        return SamplingResult(self.decision, attributes)

    def get_description(self) -> str:
        return "counting"


def test_the_touchy_thing_notices(trace_with: TraceWith) -> None:
    traced = trace_with()
    thing = Touchy()
    assert Program()(thing=thing) is thing
    assert thing.touched > 0
    assert "execute_tool pass_on" in traced.names()


async def test_suppressed(trace_with: TraceWith) -> None:
    traced = trace_with()
    thing = Touchy()
    with suppress_instrumentation():
        assert Program()(thing=thing) is thing
        assert await Program().acall(thing=thing) is thing
        dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Program(), {"thing": thing})])
    assert traced.spans == []
    assert thing.touched == 0


async def test_an_unsampled_trace_costs_one_question(trace_with: TraceWith) -> None:
    sampler = CountingSampler(Decision.DROP)
    traced = trace_with(sampler=sampler)
    thing = Touchy()
    assert Program()(thing=thing) is thing
    assert await Program().acall(thing=thing) is thing
    assert [name for name, _ in sampler.asked] == ["invoke_workflow Program"] * 2
    assert traced.spans == []
    assert thing.touched == 0


def test_below_an_unsampled_parent(trace_with: TraceWith) -> None:
    traced = trace_with(sampler=ParentBased(ALWAYS_ON))
    unsampled = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0)))
    thing = Touchy()
    with trace.use_span(unsampled):
        Program()(thing=thing)
        with pytest.raises(TypeError):
            Program()()
    assert traced.spans == []
    assert thing.touched == 0


def test_below_a_span_of_another_provider_the_sampler_is_asked_anew(
    trace_with: TraceWith,
) -> None:
    sampler = CountingSampler(Decision.DROP)
    trace_with(sampler=sampler)
    tracer = span_memory()[0].get_tracer("test")

    class Mixed(dspy.Module):
        def forward(self) -> Any:
            with tracer.start_as_current_span("mine"):
                return EchoLM("hi")("hello")

    Mixed()()
    assert [name for name, _ in sampler.asked] == ["invoke_workflow Mixed", "chat echo"]


def test_without_an_sdk() -> None:
    uninstrument()
    thing = Touchy()
    DSPyInstrumentor().instrument(capture_content=True)
    try:
        assert Program()(thing=thing) is thing
    finally:
        uninstrument()
    assert thing.touched == 0


def test_what_a_sampler_has_to_decide_on(trace_with: TraceWith) -> None:
    sampler = CountingSampler(Decision.RECORD_AND_SAMPLE)
    trace_with(sampler=sampler)
    with dspy.context(lm=EchoLM()):
        dspy.Predict(QA)(question="?")
    at_start = dict(sampler.asked)
    assert at_start["invoke_workflow Predict question -> answer"] == {
        "dspy.operation": "predict",
        "dspy.module.type": "Predict",
        "dspy.module.signature": "question -> answer",
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "Predict question -> answer",
    }
    assert at_start["chat echo"]["gen_ai.request.model"] == "echo"
    assert all("dspy.operation" in attributes for attributes in at_start.values())


def test_a_sampler_sees_the_raw_call(trace_with: TraceWith) -> None:
    sampler = CountingSampler(Decision.RECORD_AND_SAMPLE)
    trace_with(sampler=sampler)
    program, thing = Program(), Touchy()
    seen: list[Any] = []

    def look(parent_context: Any, *args: Any, **kwargs: Any) -> SamplingResult:
        call: Any = current_dspy_call(parent_context)
        seen.append((call.instance, call.kwargs.get("thing"), call.span))
        return SamplingResult(Decision.DROP)

    sampler.should_sample = look  # type: ignore[method-assign]
    program(thing=thing)
    assert seen == [(program, thing, None)]
    assert thing.touched == 0


def test_a_processor_sees_the_raw_call_at_the_start(trace_with: TraceWith) -> None:
    class Looks(SpanProcessor):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_start(self, span: Span, parent_context: Any = None) -> None:
            call: Any = current_dspy_call(parent_context)
            self.seen.append((span.name, type(call.instance).__name__))

        def on_end(self, span: ReadableSpan) -> None:
            pass

    traced, looks = trace_with(), Looks()
    traced.provider.add_span_processor(looks)
    Program()(thing=1)
    assert looks.seen == [
        ("invoke_workflow Program", "Program"),
        ("execute_tool pass_on", "Tool"),
        ("chat echo", "EchoLM"),
    ]


def test_a_sampler_that_raises_costs_the_span_only(
    trace_with: TraceWith, telemetry_log: Any
) -> None:
    class Broken(CountingSampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
            raise RuntimeError("no decision")

    trace_with(sampler=Broken(Decision.DROP))
    assert Program()(thing=1) == 1
    assert len(telemetry_log.take()) == 1


def test_a_processor_that_raises_costs_nothing(trace_with: TraceWith, telemetry_log: Any) -> None:
    class Broken(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("no room")

    traced = trace_with()
    traced.provider.add_span_processor(Broken())
    assert Program()(thing=1) == 1
    assert len(traced.spans) == 3
    assert len(telemetry_log.take()) == 1


def test_record_only_is_recorded(trace_with: TraceWith) -> None:
    traced = trace_with(sampler=CountingSampler(Decision.RECORD_ONLY))
    ended: list[Any] = []

    class Keeps(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            ended.append(span)

    traced.provider.add_span_processor(Keeps())
    Program()(thing="x")
    assert ended[-1].name == "invoke_workflow Program"
    assert '{"thing":"x"}' in ended[-1].attributes["dspy.module.input"]
