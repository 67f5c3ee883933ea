# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``dspy.streamify``: one span for each stream, never current in the consumer, always ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import threading
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.fake_openai import FakeOpenAI
from tests.support.memory import span_memory
from tests.support.prompt_lm import PromptLM
from tests.support.span_tree import assert_one_tree, only_span, span_tree
from tests.support.traced import uninstrument

pytestmark = [pytest.mark.surface("streamify"), pytest.mark.surface("streams")]

TREE = """\
invoke_workflow Predict question -> answer [INTERNAL]
└─ ChatAdapter [INTERNAL]
   └─ chat prompt-lm [CLIENT]"""


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(
        tracer_provider=provider, capture_content=True, skip_dep_check=True
    )
    exporter.tracer = trace.get_tracer("test", tracer_provider=provider)  # type: ignore[attr-defined]
    try:
        with dspy.context(lm=PromptLM(answers=["a"])):
            yield exporter
    finally:
        uninstrument()


@pytest.fixture(autouse=True)
def quiet_context_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, logger="opentelemetry.context"):
        yield
    assert [r for r in caplog.records if r.name.startswith("opentelemetry.context")] == []


class Failing(dspy.Module):
    def forward(self, question: str) -> Any:
        raise LookupError("no answer")


class Talking(dspy.Module):
    """Sends chunks of its own, as fast as they are taken."""

    async def aforward(self, question: str) -> Any:
        for number in range(50):
            message = dspy.streaming.StatusMessage(f"chunk {number}")
            await dspy.settings.send_stream.send(message)
        return dspy.Prediction(answer="done")


def predict() -> Any:
    return dspy.Predict("question -> answer")


async def test_an_exhausted_stream_is_one_tree(spans: InMemorySpanExporter) -> None:
    stream = dspy.streamify(predict())
    assert inspect.isasyncgenfunction(stream)

    values = [value async for value in stream(question="q")]

    assert [type(value).__name__ for value in values] == ["Prediction"]
    assert span_tree(spans.get_finished_spans()) == TREE
    span = only_span(spans.get_finished_spans(), "invoke_workflow Predict question -> answer")
    expected = {
        "dspy.operation": "predict",
        "dspy.module.type": "Predict",
        "dspy.module.input": '{"question":"q"}',
        "dspy.module.output": '{"answer":"a"}',
        "dspy.lm.call.count": 1,
        "dspy.stream.chunk.count": 1,
        "gen_ai.operation.name": "invoke_workflow",
    }
    assert expected.items() <= dict(span.attributes).items()


def test_a_sync_stream_is_the_same_tree(spans: InMemorySpanExporter) -> None:
    stream = dspy.streamify(predict(), async_streaming=False)
    chunks = stream(question="q")
    assert inspect.isgenerator(chunks)
    assert len(list(chunks)) == 1
    assert span_tree(spans.get_finished_spans()) == TREE
    span = only_span(spans.get_finished_spans(), "invoke_workflow Predict question -> answer")
    assert span.attributes["dspy.module.input"] == '{"question":"q"}'
    assert span.attributes["dspy.module.output"] == '{"answer":"a"}'


async def test_a_stream_that_fails_has_an_input_only(spans: InMemorySpanExporter) -> None:
    with pytest.raises(Exception, match=r"no answer|TaskGroup"):  # a group of it in dspy 3.0
        async for _ in dspy.streamify(Failing())("q"):
            pass
    span = only_span(spans.get_finished_spans(), "invoke_workflow Failing")
    assert span.attributes["dspy.module.input"] == '{"question":"q"}'
    assert "dspy.module.output" not in span.attributes


async def test_a_stream_keeps_content_to_itself_unless_asked() -> None:
    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        with dspy.context(lm=PromptLM(answers=["a"])):
            async for _ in dspy.streamify(predict())(question="q"):
                pass
    finally:
        uninstrument()
    span = only_span(exporter.get_finished_spans(), "invoke_workflow Predict question -> answer")
    assert not {"dspy.module.input", "dspy.module.output"} & span.attributes.keys()


def test_a_sync_stream_belongs_to_the_span_in_which_it_was_made(
    spans: InMemorySpanExporter,
) -> None:
    tracer = spans.tracer  # type: ignore[attr-defined]
    with tracer.start_as_current_span("request"):
        chunks = dspy.streamify(predict(), async_streaming=False)(question="q")
    list(chunks)
    assert assert_one_tree(spans.get_finished_spans()).name == "request"


async def test_the_consumer_is_never_inside_the_stream(spans: InMemorySpanExporter) -> None:
    tracer = spans.tracer  # type: ignore[attr-defined]
    stream = dspy.streamify(Talking(), is_async_program=True)
    with tracer.start_as_current_span("request") as request:
        async for _ in stream(question="q"):
            assert trace.get_current_span() is request
    span = only_span(spans.get_finished_spans(), "invoke_workflow Talking")
    assert span.parent.span_id == request.get_span_context().span_id
    assert span.attributes["dspy.stream.chunk.count"] == 51


async def test_a_failing_program_fails_its_stream_with_its_own_exception(
    spans: InMemorySpanExporter,
) -> None:
    with pytest.raises(Exception) as raised:
        async for _ in dspy.streamify(Failing())(question="q"):
            pass
    plain = await _outcome_without_us(Failing())
    assert type(raised.value) is type(plain)
    span = only_span(spans.get_finished_spans(), "invoke_workflow Failing")
    assert span.status.status_code.name == "ERROR"
    assert_one_tree(spans.get_finished_spans())


async def _closed_early() -> tuple[str, type | None, bool]:
    chunks = dspy.streamify(Talking(), is_async_program=True)(question="q")
    first = (await chunks.__anext__()).message
    try:
        await chunks.aclose()
    except BaseException as error:  # DSPy's own: up to 3.3 the group of its tasks
        return first, type(error), trace.get_current_span() is trace.INVALID_SPAN
    return first, None, trace.get_current_span() is trace.INVALID_SPAN


def test_a_stream_that_is_closed_early_ends_as_an_error(spans: InMemorySpanExporter) -> None:
    # In a loop of its own: since 3.4, DSPy cancels the task that closes a stream, if it goes on.
    outcome = asyncio.run(_closed_early())
    span = only_span(spans.get_finished_spans(), "invoke_workflow Talking")
    # Until 3.3, DSPy cancels the program before the stream ends.
    cancelled = "asyncio.exceptions.CancelledError"
    assert span.attributes["error.type"] in ("GeneratorExit", cancelled)
    assert span.status.status_code.name == "ERROR"
    assert span.attributes["dspy.stream.chunk.count"] == 1
    assert assert_one_tree(spans.get_finished_spans()).name == "invoke_workflow Talking"
    DSPyInstrumentor().uninstrument()
    assert outcome == asyncio.run(_closed_early()) == ("chunk 0", outcome[1], True)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["generator", "async generator"])
async def test_a_consumer_that_leaves_after_the_result_is_no_error(
    spans: InMemorySpanExporter, asynchronous: bool
) -> None:
    stream = dspy.streamify(predict(), async_streaming=asynchronous)(question="q")
    if asynchronous:
        async for _ in stream:
            break
        with contextlib.suppress(BaseException):  # DSPy's own: up to 3.3 the group of its tasks
            await stream.aclose()
    else:
        next(stream)
        del stream
        gc.collect()
    span = only_span(spans.get_finished_spans(), "invoke_workflow Predict question -> answer")
    assert "error.type" not in span.attributes
    assert span.attributes["dspy.module.output"] == '{"answer":"a"}'
    assert span.attributes["dspy.stream.chunk.count"] == 1


async def test_the_result_is_recorded_as_the_program_has_returned_it(
    spans: InMemorySpanExporter,
) -> None:
    async for chunk in dspy.streamify(Talking(), is_async_program=True)(question="q"):
        if isinstance(chunk, dspy.Prediction):
            chunk.answer = "changed by the consumer"
    span = only_span(spans.get_finished_spans(), "invoke_workflow Talking")
    assert span.attributes["dspy.module.output"] == '{"answer":"done"}'


async def test_a_program_that_calls_itself_has_a_span_for_each_call(
    spans: InMemorySpanExporter,
) -> None:
    class Recursive(dspy.Module):
        async def aforward(self, depth: int) -> Any:
            return await self.acall(depth=depth - 1) if depth else dspy.Prediction(answer="end")

        def forward(self, depth: int) -> Any:
            return self(depth=depth - 1) if depth else dspy.Prediction(answer="end")

    for asynchronous in (True, False):
        async for _ in dspy.streamify(Recursive(), is_async_program=asynchronous)(depth=2):
            pass
        names = [span.name for span in spans.get_finished_spans()]
        assert names == ["Recursive", "Recursive", "invoke_workflow Recursive"]
        spans.clear()


async def test_a_streamed_function_has_a_span_of_its_stream(spans: InMemorySpanExporter) -> None:
    program = predict()

    async def answer(question: str) -> Any:
        return await program.acall(question=question)

    async for _ in dspy.streamify(answer)(question="q"):
        pass
    root = assert_one_tree(spans.get_finished_spans())
    assert root.name == "stream function"
    assert root.attributes["dspy.operation"] == "stream"
    assert root.attributes["dspy.stream.chunk.count"] == 1
    assert (
        only_span(spans.get_finished_spans(), "invoke_workflow Predict question -> answer").parent
        is not None
    )


async def test_the_duration_of_a_program_leaves_out_its_consumer() -> None:
    provider, exporter = span_memory()
    reader = InMemoryMetricReader()
    DSPyInstrumentor().instrument(
        tracer_provider=provider,
        meter_provider=MeterProvider([reader]),
        skip_dep_check=True,
    )
    try:
        with dspy.context(lm=PromptLM(answers=["a"])):
            async for _ in dspy.streamify(predict())(question="q"):
                await asyncio.sleep(0.3)
    finally:
        uninstrument()
    span = only_span(exporter.get_finished_spans(), "invoke_workflow Predict question -> answer")
    data = reader.get_metrics_data()
    durations: list[Any] = [
        getattr(point, "sum", None)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "gen_ai.invoke_workflow.duration"
        for point in metric.data.data_points
    ]
    assert len(durations) == 1
    assert durations[0] < 0.3 <= (span.end_time - span.start_time) / 1e9


def test_a_stream_that_is_collected_half_way_ends(spans: InMemorySpanExporter) -> None:
    go_on = threading.Event()

    class Waiting(dspy.Module):
        async def aforward(self, question: str) -> Any:
            await dspy.settings.send_stream.send(dspy.streaming.StatusMessage("first"))
            await asyncio.to_thread(go_on.wait, 10)
            return dspy.Prediction(answer="done")

    chunks = dspy.streamify(Waiting(), is_async_program=True, async_streaming=False)(question="q")
    next(chunks)
    del chunks
    gc.collect()
    go_on.set()
    span = only_span(spans.get_finished_spans(), "invoke_workflow Waiting")
    assert span.attributes["error.type"] == "GeneratorExit"


async def test_a_stream_that_is_never_begun_makes_no_span(spans: InMemorySpanExporter) -> None:
    chunks = dspy.streamify(predict())(question="q")
    await chunks.aclose()
    assert spans.get_finished_spans() == ()


async def test_two_streams_in_turns_stay_apart(spans: InMemorySpanExporter) -> None:
    stream = dspy.streamify(Talking(), is_async_program=True)

    async def consume() -> int:
        return len([value async for value in stream(question="q")])

    assert await asyncio.gather(consume(), consume()) == [51, 51]
    roots = [span for span in spans.get_finished_spans() if span.parent is None]
    assert [span.name for span in roots] == ["invoke_workflow Talking"] * 2
    assert len({span.get_span_context().trace_id for span in roots}) == 2


async def test_tokens_of_a_real_endpoint_arrive_through_the_span(
    spans: InMemorySpanExporter,
) -> None:
    with FakeOpenAI() as server:
        lm = dspy.LM("openai/gpt-4o-mini", api_base=server.base_url, api_key="test", cache=False)
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        program = predict()
        program.set_lm(lm)
        stream = dspy.streamify(program, stream_listeners=[listener])
        # Until 3.3 DSPy asks for the usage of a stream only where it tracks it.
        with dspy.context(track_usage=True):
            values = [value async for value in stream(question="q")]
    root = assert_one_tree(spans.get_finished_spans())
    assert root.attributes["dspy.stream.chunk.count"] == len(values) > 1
    chat = only_span(spans.get_finished_spans(), "chat gpt-4o-mini")
    assert chat.attributes["gen_ai.usage.output_tokens"] > 0


def test_uninstrumented_streamify_is_the_very_same_function() -> None:
    names = [(dspy, "streamify"), (dspy.streaming, "streamify")]
    before = [getattr(owner, name) for owner, name in names]
    provider, _ = span_memory()
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    assert inspect.signature(dspy.streamify) == inspect.signature(before[0])
    DSPyInstrumentor().uninstrument()
    assert [getattr(owner, name) for owner, name in names] == before


async def _outcome_without_us(program: Any) -> BaseException:
    DSPyInstrumentor().uninstrument()
    try:
        async for _ in dspy.streamify(program)(question="q"):
            pass
    except Exception as error:
        return error
    raise AssertionError("the program did not fail")
