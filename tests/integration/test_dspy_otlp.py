# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Whole programs through the SDK's batch processor to an OTLP collector: HTTP and gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcExporter,
)
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpExporter,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.otlp_collector import StubCollector
from tests.support.span_tree import assert_one_tree, span_tree, spans_named

pytestmark = pytest.mark.integration

QA = "question -> answer"


class Pipeline:
    """A provider that sends to a collector in batches, and keeps what it sent."""

    def __init__(self, exporter: Any) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(
            resource=Resource({"service.name": "test"}), shutdown_on_exit=False
        )
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def sent(self) -> list[Any]:
        return list(self.memory.get_finished_spans())


@pytest.fixture(scope="module")
def collector() -> Iterator[StubCollector]:
    with StubCollector(grpc=True) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def pipeline(request: pytest.FixtureRequest, collector: StubCollector) -> Iterator[Pipeline]:
    collector.reset()
    exporters: dict[str, Callable[[], Any]] = {
        "http": lambda: HttpExporter(f"{collector.http_endpoint}/v1/traces"),
        "grpc": lambda: GrpcExporter(collector.grpc_endpoint, insecure=True),
    }
    made = Pipeline(exporters[request.param]())
    DSPyInstrumentor().instrument(tracer_provider=made.provider, capture_content=True)
    yield made
    DSPyInstrumentor().uninstrument()
    made.provider.shutdown()


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as running:
        yield running


def served(server: FakeOpenAI) -> dspy.LM:
    return dspy.LM("openai/gpt-4o-mini", api_base=server.base_url, api_key="test", cache=False)


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.ChainOfThought(QA)

    def forward(self, question: str) -> Any:
        return self.generate(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.generate.acall(question=question)


def test_what_arrives_is_what_was_made(
    pipeline: Pipeline, collector: StubCollector, server: FakeOpenAI
) -> None:
    with dspy.context(lm=served(server)):
        assert Program()(question="?").answer == "answer value"
    assert pipeline.provider.force_flush()
    arrived = collector.wait_for_spans(len(pipeline.sent))
    assert span_tree(arrived) == span_tree(pipeline.sent)
    assert_one_tree(arrived)
    by_id = {span.span_id: span for span in arrived}
    for span in pipeline.sent:
        received = by_id[f"{span.context.span_id:016x}"]
        assert received.trace_id == f"{span.context.trace_id:032x}"
        assert normal(received.attributes) == normal(span.attributes)
        assert received.scope_name == "opentelemetry.instrumentation.dspy"


def normal(attributes: Any) -> dict[str, Any]:
    """Sequences are tuples on a span and lists on the wire."""
    return {
        name: list(value) if isinstance(value, (tuple, list)) else value
        for name, value in attributes.items()
    }


def examples(count: int) -> list[dspy.Example]:
    made = [dspy.Example(question=f"q{n}", answer="answer value") for n in range(count)]
    return [example.with_inputs("question") for example in made]


def exact(example: Any, prediction: Any, trace: Any = None) -> float:
    return float(example.answer == prediction.answer)


def test_threads_tasks_and_an_evaluation_are_one_trace(
    pipeline: Pipeline, collector: StubCollector, server: FakeOpenAI
) -> None:
    async def gather() -> None:
        await asyncio.gather(*(program.acall(question=f"g{n}") for n in range(10)))

    program = Program()
    with dspy.context(lm=served(server)), pipeline.tracer.start_as_current_span("request"):
        dspy.Parallel(num_threads=4, disable_progress_bar=True)(
            [(program, example) for example in examples(8)]
        )
        asyncio.run(gather())
        dspy.Evaluate(devset=examples(8), metric=exact, num_threads=4, display_progress=False)(
            program
        )
    pipeline.provider.force_flush()
    arrived = collector.wait_for_spans(len(pipeline.sent))
    root = assert_one_tree(arrived)
    assert root.name == "request"
    assert len(spans_named(arrived, "chat gpt-4o-mini")) == 26
    assert len(server.requests) == 26


def test_an_optimizer_with_threads_is_one_trace(
    pipeline: Pipeline, collector: StubCollector, server: FakeOpenAI
) -> None:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=exact, num_candidate_programs=1, num_threads=4, max_labeled_demos=1
    )
    with dspy.context(lm=served(server)), pipeline.tracer.start_as_current_span("request"):
        optimizer.compile(Program(), trainset=examples(4))
    pipeline.provider.force_flush()
    arrived = collector.wait_for_spans(len(pipeline.sent))
    assert_one_tree(arrived)
    assert len(spans_named(arrived, "chat gpt-4o-mini")) == len(server.requests) > 8


def test_tokens_and_cost_add_up(
    pipeline: Pipeline, collector: StubCollector, server: FakeOpenAI
) -> None:
    server.reply_with(*[Reply("x", usage=Usage(100 * n, 10 * n)) for n in range(1, 5)])
    lm = served(server)
    for _ in range(4):
        lm("hello")
    pipeline.provider.force_flush()
    arrived = collector.wait_for_spans(4)
    totals = [
        sum(span.attributes[name] for span in arrived)
        for name in ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    ]
    assert totals == [1_000, 100]
    # gpt-4o-mini: 0.15 and 0.60 dollars for a million tokens.
    cost = sum(span.attributes["dspy.lm.cost.total"] for span in arrived)
    assert cost == pytest.approx(1_000 * 0.15e-6 + 100 * 0.6e-6)


class Awkward:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


HOSTILE: dict[str, Any] = {
    "repr": Awkward(),
    "surrogate": "half \ud83d emoji",
    "bytes": b"\xff\x00",
    "nan": float("nan"),
    "long": "x" * 10_000_000,
    "digits": 10**5_000,
}


def test_hostile_values_lose_no_span(pipeline: Pipeline, collector: StubCollector) -> None:
    """One span that cannot be encoded would take its whole batch along."""

    class PassOn(dspy.Module):
        def forward(self, value: Any) -> Any:
            return value

    def explode() -> None:
        raise ValueError("half \ud83d emoji")

    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for value in (*HOSTILE.values(), cyclic):
        assert PassOn()(value=value) is value
    tool = dspy.Tool(explode, name="broken \ud83d", desc="half \ud83d emoji")
    with pytest.raises(ValueError, match="emoji"):
        tool()
    pipeline.provider.force_flush()
    arrived = collector.wait_for_spans(len(HOSTILE) + 2)
    assert len(arrived) == len(HOSTILE) + 2
    assert max(len(str(span.attributes)) for span in arrived) < 1_000_000
