# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Metrics: what is recorded of which call, sampled or not, and nothing more than that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler

from opentelemetry.instrumentation.dspy import semconv
from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.lms import (
    DummyLM,
    EchoLM,
    FailingLM,
    served,
)
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith
from tests.unit.instrumentation.measured import (
    DURATION,
    ECHO_ANSWERED,
    LOOKUPS,
    MODULES,
    REASONED,
    SERVED,
    TOKENS,
    Measured,
    Program,
    key,
    search,
)


@pytest.fixture
def measured() -> Iterator[Measured]:
    measured = Measured()
    yield measured
    measured.check()
    measured.provider.shutdown()


@pytest.fixture
def traced(trace_with: TraceWith, measured: Measured) -> Traced:
    return trace_with(meter_provider=measured.provider)


async def call(program: Any, mode: str, **kwargs: Any) -> Any:
    with dspy.context(lm=EchoLM(REASONED)):
        return program(**kwargs) if mode == "sync" else await program.acall(**kwargs)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    "sampler", [ALWAYS_ON, ALWAYS_OFF, ParentBased(ALWAYS_OFF)], ids=["on", "off", "parent off"]
)
async def test_sampled_or_not(
    trace_with: TraceWith, measured: Measured, sampler: Sampler, mode: str
) -> None:
    traced = trace_with(sampler=sampler, meter_provider=measured.provider)
    for _ in range(3):
        await call(Program(), mode, question="?")
    assert bool(traced.spans) is (sampler is ALWAYS_ON)
    assert measured.all_counts() == {
        DURATION: {key(ECHO_ANSWERED): 3},
        TOKENS: {
            key({**ECHO_ANSWERED, "gen_ai.token.type": "input"}): 3,
            key({**ECHO_ANSWERED, "gen_ai.token.type": "output"}): 3,
        },
        "gen_ai.execute_tool.duration": {key({"gen_ai.tool.name": "search"}): 3},
        "gen_ai.invoke_workflow.duration": {key({"gen_ai.workflow.name": "Program"}): 3},
        MODULES: {
            key({"dspy.module.type": name}): 3 for name in ("Program", "ChainOfThought", "Predict")
        },
    }
    assert measured.tokens() == {"input": 9, "output": 6}


def test_units_and_buckets(traced: Traced, measured: Measured) -> None:
    with dspy.context(lm=EchoLM(REASONED)):
        Program()(question="?")
    buckets = {
        name: point.explicit_bounds
        for name, metric in measured.metrics().items()
        for point in metric.data.data_points
    }
    client = (
        0.01,
        0.02,
        0.04,
        0.08,
        0.16,
        0.32,
        0.64,
        1.28,
        2.56,
        5.12,
        10.24,
        20.48,
        40.96,
        81.92,
    )
    assert buckets[DURATION] == pytest.approx(client)
    assert buckets[TOKENS] == pytest.approx([4**power for power in range(14)])
    assert buckets["gen_ai.execute_tool.duration"] == pytest.approx(client)
    assert buckets["gen_ai.invoke_workflow.duration"] == pytest.approx(
        (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
    )


def test_the_scope(traced: Traced, measured: Measured) -> None:
    EchoLM("hi")("hello")
    scope = measured.scope()
    assert scope.name == "opentelemetry.instrumentation.dspy"
    assert scope.schema_url == semconv.SCHEMA_URL
    assert scope.version
    assert dict(scope.attributes or {}) == {"dspy.version": dspy.__version__}


def test_durations_are_those_of_the_calls(traced: Traced, measured: Measured) -> None:
    with dspy.context(lm=EchoLM(REASONED)):
        Program()(question="?")
    (module,) = [
        point
        for point in measured.points(MODULES)
        if point.attributes["dspy.module.type"] == "Program"
    ]
    span = traced.span("invoke_workflow Program")
    assert span.start_time is not None
    assert span.end_time is not None
    (lm,) = measured.points(DURATION)
    assert 0 < lm.sum < module.sum < (span.end_time - span.start_time) / 1e9


def test_an_exemplar_leads_to_the_span(traced: Traced, measured: Measured) -> None:
    EchoLM("hi")("hello")
    span = traced.span("chat echo")
    assert span.context is not None
    (point,) = measured.points(DURATION)
    assert [exemplar.span_id for exemplar in point.exemplars] == [span.context.span_id]


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_cache_lookups(
    trace_with: TraceWith, measured: Measured, server: FakeOpenAI, sampler: Sampler
) -> None:
    trace_with(sampler=sampler, meter_provider=measured.provider)
    server.reply_with(Reply("hi", usage=Usage(100, 20)))
    lm = served(server, cache=True)
    question = f"asked before? {sampler.get_description()}"

    class Three(dspy.Module):
        def forward(self) -> None:
            for _ in range(3):
                lm(question)

    Three()()
    common = {name: value for name, value in SERVED.items() if name != "gen_ai.response.model"}
    assert measured.counts(LOOKUPS) == {
        key({**common, "dspy.lm.cache.hit": False}): 1,
        key({**common, "dspy.lm.cache.hit": True}): 2,
    }
    assert measured.tokens() == {"input": 100, "output": 20}
    assert measured.counts(DURATION) == {
        key(SERVED): 1,
        key({**SERVED, "dspy.lm.cache.hit": True}): 2,
    }


def test_no_lookup_where_the_cache_is_off(
    traced: Traced, measured: Measured, server: FakeOpenAI
) -> None:
    served(server, cache=False)("hello")
    assert measured.counts(DURATION) == {key(SERVED): 1}
    assert measured.counts(LOOKUPS) == {}


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_a_failed_call(trace_with: TraceWith, measured: Measured, sampler: Sampler) -> None:
    trace_with(sampler=sampler, meter_provider=measured.provider)

    class Failing(dspy.Module):
        def forward(self) -> None:
            FailingLM(lambda: TimeoutError("too late"))("hello")

    with pytest.raises(TimeoutError):
        Failing()()
    failed = {"error.type": "TimeoutError"}
    assert measured.all_counts() == {
        DURATION: {
            key({"gen_ai.operation.name": "chat", "gen_ai.request.model": "failing", **failed}): 1
        },
        "gen_ai.invoke_workflow.duration": {key({"gen_ai.workflow.name": "Failing", **failed}): 1},
        MODULES: {key({"dspy.module.type": "Failing", **failed}): 1},
    }


def test_a_failed_tool(traced: Traced, measured: Measured) -> None:
    def broken() -> None:
        raise LookupError("nothing there")

    with pytest.raises(LookupError):
        dspy.Tool(broken)()
    assert measured.all_counts() == {
        "gen_ai.execute_tool.duration": {
            key({"gen_ai.tool.name": "broken", "error.type": "LookupError"}): 1
        }
    }


async def test_a_cancelled_call(traced: Traced, measured: Measured) -> None:
    class Waiting(dspy.Module):
        async def aforward(self) -> None:
            await asyncio.sleep(60)

    task = asyncio.create_task(Waiting().acall())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    attributes = {"dspy.module.type": "Waiting", "error.type": "asyncio.exceptions.CancelledError"}
    assert measured.counts(MODULES) == {key(attributes): 1}


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_an_agent(trace_with: TraceWith, measured: Measured, sampler: Sampler) -> None:
    trace_with(sampler=sampler, meter_provider=measured.provider)
    steps = [
        {"next_thought": "look", "next_tool_name": "search", "next_tool_args": {"query": "x"}},
        {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": "because", "answer": "blue"},
    ]
    with dspy.context(lm=DummyLM(steps)):
        dspy.ReAct("question -> answer", tools=[search])(question="?")
    agents = measured.counts("gen_ai.invoke_agent.duration")
    assert agents == {key({"gen_ai.agent.name": "ReAct question -> answer"}): 1}
    assert measured.counts("gen_ai.invoke_workflow.duration") == {}
    tools = measured.counts("gen_ai.execute_tool.duration")
    assert tools[key({"gen_ai.tool.name": "search"})] == 1


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["on", "off"])
def test_an_embedder(
    trace_with: TraceWith, measured: Measured, server: FakeOpenAI, sampler: Sampler
) -> None:
    pytest.importorskip("numpy")
    trace_with(sampler=sampler, meter_provider=measured.provider)
    embedder = dspy.Embedder(
        "openai/text-embedding-3-small", api_base=server.base_url, api_key="x", caching=False
    )
    embedder(["one", "two"])
    common = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "text-embedding-3-small",
        "gen_ai.response.model": "text-embedding-3-small",
    }
    assert measured.all_counts() == {
        DURATION: {key(common): 1},
        TOKENS: {key({**common, "gen_ai.token.type": "input"}): 1},
    }
    assert measured.tokens() == {"input": 2}


async def test_time_to_first_chunk(traced: Traced, measured: Measured, server: FakeOpenAI) -> None:
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    stream = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
    with dspy.context(lm=served(server)):
        async for _ in stream(question="?"):
            pass
    (point,) = measured.points("gen_ai.client.operation.time_to_first_chunk")
    assert key(point.attributes) == key(SERVED)
    assert point.sum == traced.attributes("chat gpt-4o-mini")["gen_ai.response.time_to_first_chunk"]
