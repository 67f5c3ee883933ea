# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Streamed LM calls: that they are, how many chunks came, and when the first one did."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import dspy
import pytest

from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI, Reply
from tests.support.lms import DSPY, EchoLM, Version, served
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

CHAT = "chat gpt-4o-mini"
QA = "question -> answer"
STREAM_FACTS = (
    "gen_ai.request.stream",
    "gen_ai.response.time_to_first_chunk",
    "dspy.stream.chunk.count",
)
REPLY = Reply(chat_text(answer="one two three four five"), chunk_delay=0.01)


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        return self.generate(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.generate.acall(question=question)


async def consumed(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


def engines() -> list[Any]:
    """The ways in which this dspy talks to a provider."""
    if Version("3.4") > DSPY:
        return [{}]
    return [{"engine": "lm15"}, {"engine": "litellm"}]


@pytest.mark.parametrize("options", engines(), ids=str)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync program", "async program"])
async def test_the_chunks_of_a_streamed_call(
    traced: Traced, server: FakeOpenAI, options: dict[str, Any], asynchronous: bool
) -> None:
    server.reply_with(REPLY)
    program = dspy.streamify(Program(), is_async_program=asynchronous)
    with dspy.context(lm=served(server, **options)):
        items = await consumed(program(question="?"))
    chunks = [item for item in items if not isinstance(item, dspy.Prediction)]
    attributes = traced.attributes(CHAT)
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["dspy.stream.chunk.count"] == len(chunks) > 1
    first = attributes["gen_ai.response.time_to_first_chunk"]
    span = traced.span(CHAT)
    assert span.end_time and span.start_time
    assert 0 < first < (span.end_time - span.start_time) / 1e9
    assert server.requests[0].stream


async def test_the_consumer_gets_the_same_as_without_us(
    trace_with: TraceWith, server: FakeOpenAI
) -> None:
    async def run() -> list[str]:
        server.reply_with(REPLY)
        listener = dspy.streaming.StreamListener(signature_field_name="answer")
        program = dspy.streamify(Program(), stream_listeners=[listener])
        with dspy.context(lm=served(server)):
            items = await consumed(program(question="?"))
        return [item.chunk if hasattr(item, "chunk") else item.answer for item in items]

    without = await run()
    traced = trace_with()
    assert await run() == without
    assert traced.attributes(CHAT)["dspy.stream.chunk.count"] > 1


def test_a_call_that_is_not_streamed(traced: Traced, server: FakeOpenAI) -> None:
    with dspy.context(lm=served(server)):
        Program()(question="?")
    assert not set(STREAM_FACTS) & set(traced.attributes(CHAT))


async def test_only_the_predictor_that_is_listened_to_streams(
    traced: Traced, server: FakeOpenAI
) -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = dspy.Predict(QA)
            self.second = dspy.Predict("answer -> verdict")

        def forward(self, question: str) -> Any:
            return self.second(answer=self.first(question=question).answer)

    server.reply_with(REPLY, Reply(chat_text(verdict="yes")))
    listener = dspy.streaming.StreamListener(signature_field_name="verdict")
    program = dspy.streamify(Two(), stream_listeners=[listener])
    with dspy.context(lm=served(server)):
        await consumed(program(question="?"))
    spans = [dict(span.attributes or {}) for span in traced.spans if span.name == CHAT]
    assert [attributes.get("gen_ai.request.stream") for attributes in spans] == [None, True]


async def test_an_answer_from_the_cache_is_not_streamed(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(REPLY)
    lm = served(server, cache=True)
    program = dspy.streamify(Program(), is_async_program=True)
    with dspy.context(lm=lm):
        await consumed(program(question="cached?"))
        traced.clear()
        await consumed(program(question="cached?"))
    attributes = traced.attributes(CHAT)
    assert attributes["dspy.lm.cache.hit"] is True
    assert not set(STREAM_FACTS) & set(attributes)


async def test_an_lm_that_cannot_stream(traced: Traced) -> None:
    program = dspy.streamify(Program())
    with dspy.context(lm=EchoLM()):
        await consumed(program(question="?"))
    assert not set(STREAM_FACTS) & set(traced.attributes("chat echo"))


async def test_a_custom_lm_that_sends_chunks_of_its_own(traced: Traced) -> None:
    """Its items go straight to the consumer and are not chunks of a provider."""

    class Sending(EchoLM):
        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            stream = dspy.settings.send_stream
            await stream.send("piece")
            return EchoLM.forward(self, prompt, messages)

    program = dspy.streamify(Program(), is_async_program=True)
    with dspy.context(lm=Sending()):
        items = await consumed(program(question="?"))
    if Version("3.1") <= DSPY:
        assert items[0] == "piece"  # before, what is not a chunk of LiteLLM's is dropped
    assert not set(STREAM_FACTS) & set(traced.attributes("chat echo"))
