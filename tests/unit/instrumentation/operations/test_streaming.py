# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Streamed programs: the same tree as any other, and a clean end however they end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import dspy
import pytest

from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.faults import Status
from tests.support.lms import served
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TelemetryLog

QA = "question -> answer"


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        return self.generate(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.generate.acall(question=question)


def streamed(**options: Any) -> Any:
    listener = dspy.streaming.StreamListener(
        signature_field_name="answer", predict_name="generate", allow_reuse=True
    )
    return dspy.streamify(Program(), stream_listeners=[listener], **options)


TREE = """\
request
└─ invoke_workflow Program
   └─ Predict generate
      └─ ChatAdapter
         └─ chat gpt-4o-mini {gen_ai.usage.output_tokens=7}"""


@pytest.mark.parametrize("is_async", [False, True], ids=["sync program", "async program"])
async def test_a_stream_read_to_its_end(
    traced: Traced, server: FakeOpenAI, telemetry_log: TelemetryLog, is_async: bool
) -> None:
    server.reply_with(Reply(chat_text(answer="one two three"), usage=Usage(20, 7)))
    program = streamed(is_async_program=is_async)
    chunks: list[Any] = []
    with (
        # Until 3.3 DSPy asks for the usage of a stream only where it tracks it.
        dspy.context(lm=served(server), track_usage=True),
        traced.tracer.start_as_current_span("request"),
    ):
        async for chunk in program(question="?"):
            chunks.append(chunk)
    assert chunks[-1].answer == "one two three"
    assert traced.tree("gen_ai.usage.output_tokens") == TREE
    assert_one_tree(traced.spans)
    assert telemetry_log.take() == []


def test_a_synchronous_stream(
    traced: Traced, server: FakeOpenAI, telemetry_log: TelemetryLog
) -> None:
    server.reply_with(Reply(chat_text(answer="one two three"), usage=Usage(20, 7)))
    program = streamed(async_streaming=False)
    with (
        # Until 3.3 DSPy asks for the usage of a stream only where it tracks it.
        dspy.context(lm=served(server), track_usage=True),
        traced.tracer.start_as_current_span("request"),
    ):
        *_, last = program(question="?")
    assert last.answer == "one two three"
    assert traced.tree("gen_ai.usage.output_tokens") == TREE
    assert telemetry_log.take() == []


async def test_two_streams_at_once(
    traced: Traced, server: FakeOpenAI, telemetry_log: TelemetryLog
) -> None:
    async def read(question: str) -> Any:
        with traced.tracer.start_as_current_span(f"request {question}"):
            return [chunk async for chunk in program(question=question)][-1]

    program = streamed(is_async_program=True)
    with dspy.context(lm=served(server)):
        await asyncio.gather(read("a"), read("b"))
    for question in "ab":
        root = traced.span(f"request {question}").context
        assert root is not None
        trace = [s for s in traced.spans if s.context and s.context.trace_id == root.trace_id]
        assert_one_tree(trace)
        assert len(trace) == 5
    assert telemetry_log.take() == []


def test_a_stream_that_is_left_half_way(
    traced: Traced, server: FakeOpenAI, telemetry_log: TelemetryLog
) -> None:
    async def leave() -> None:
        stream = streamed(is_async_program=True)(question="?")
        async for _ in stream:
            break
        await stream.aclose()

    text = chat_text(answer=" ".join(["word"] * 50))
    server.reply_with(Reply(text, chunk_delay=0.005))
    # DSPy's stream does not like being closed: by release, RuntimeError, a group, a cancellation.
    with dspy.context(lm=served(server)), contextlib.suppress(BaseException):
        asyncio.run(leave())
    _wait_for("invoke_workflow Program", traced)
    assert_one_tree(traced.spans)
    assert telemetry_log.take() == []


def _wait_for(name: str, traced: Traced) -> None:
    deadline = time.monotonic() + 10
    while name not in traced.names() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_provider_that_fails(
    traced: Traced, server: FakeOpenAI, telemetry_log: TelemetryLog
) -> None:
    async def read() -> None:
        async for _ in streamed(is_async_program=True)(question="?"):
            pass

    server.fail_with(*[Status(400, '{"error":{"message":"no"}}')] * 4)
    with (
        dspy.context(lm=served(server, num_retries=0)),
        contextlib.suppress(Exception),
    ):
        asyncio.run(read())
    _wait_for("invoke_workflow Program", traced)
    assert "invoke_workflow Program ERROR(" in traced.tree()
    assert_one_tree(traced.spans)
    assert telemetry_log.take() == []


def test_an_asyncified_program_in_a_loop_of_its_own(traced: Traced, server: FakeOpenAI) -> None:
    async def run() -> Any:
        return await dspy.asyncify(Program())(question="?")

    with dspy.context(lm=served(server)), traced.tracer.start_as_current_span("request"):
        assert asyncio.run(run()).answer == "answer value"
    assert_one_tree(traced.spans)


def test_a_syncified_program(traced: Traced, server: FakeOpenAI) -> None:
    class Asynchronous(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generate = dspy.Predict(QA)

        async def aforward(self, question: str) -> Any:
            return await self.generate.acall(question=question)

    with dspy.context(lm=served(server)), traced.tracer.start_as_current_span("request"):
        result = dspy.syncify(Asynchronous(), in_place=False)(question="?")
    assert result.answer == "answer value"
    assert_one_tree(traced.spans)
