# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The response of a model: finish reasons, ids and instructions, whichever API and client."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from opentelemetry import baggage, context

from tests.support.fake_openai import FakeOpenAI, Reply, ToolCall
from tests.support.lms import DSPY, EchoLM, FailingLM, Version, served
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("LM")

CHAT = "chat gpt-4o-mini"
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("tools", [None, [FUNCTION]], ids=["no tools", "tools"])
@pytest.mark.parametrize("call", ["sync", "async"])
async def test_the_responses_api_has_finish_reasons(
    traced: Traced, server: FakeOpenAI, tools: Any, call: str
) -> None:
    lm = served(server, model_type="responses")
    more = {} if tools is None else {"tools": tools}
    lm("q", **more) if call == "sync" else await lm.acall("q", **more)
    assert traced.attributes(CHAT)["gen_ai.response.finish_reasons"] == ("stop",)
    (message,) = traced.content(CHAT, "gen_ai.output.messages")
    assert message["finish_reason"] == "stop"


def test_the_responses_api_calls_a_tool(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply(tool_calls=(ToolCall("f", {}),)))
    served(server, model_type="responses")("q", tools=[FUNCTION])
    assert traced.attributes(CHAT)["gen_ai.response.finish_reasons"] == ("tool_call",)


def test_the_responses_api_is_cut_short(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply("x", finish_reason="length"))
    served(server, model_type="responses")("q", tools=[FUNCTION])
    assert traced.attributes(CHAT)["gen_ai.response.finish_reasons"] == ("length",)


def test_a_chat_that_calls_a_tool(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply(tool_calls=(ToolCall("f", {}),)))
    tool = {"type": "function", "function": {"name": "f", "parameters": WEATHER}}
    served(server)("q", tools=[tool])
    assert traced.attributes(CHAT)["gen_ai.response.finish_reasons"] == ("tool_call",)
    (message,) = traced.content(CHAT, "gen_ai.output.messages")
    assert message["finish_reason"] == "tool_call"


@pytest.mark.parametrize("model_type", ["chat", "responses"])
async def test_a_stream_has_a_response_id(
    traced: Traced, server: FakeOpenAI, model_type: str
) -> None:
    stream = dspy.streamify(dspy.Predict("question -> answer"))
    with dspy.context(lm=served(server, model_type=model_type)):
        async for _ in stream(question="?"):
            pass
    prefix = "chatcmpl" if model_type == "chat" else "resp"
    assert traced.attributes(CHAT)["gen_ai.response.id"].startswith(prefix)


def test_instructions_that_are_given_apart(traced: Traced, server: FakeOpenAI) -> None:
    lm = served(server, model_type="responses")
    lm("q", instructions="Be short.", tools=[FUNCTION])
    instructions = traced.content(CHAT, "gen_ai.system_instructions")
    assert instructions == [{"type": "text", "content": "Be short."}]
    assert "Be short." not in traced.attributes(CHAT).get("dspy.lm.parameters", "")
    asked = traced.content(CHAT, "gen_ai.input.messages")
    assert [message["role"] for message in asked] == ["user"]


@pytest.mark.skipif(Version("3.4") > DSPY, reason="Request came with 3.4")
def test_the_system_text_of_a_request_is_given_apart(traced: Traced, server: FakeOpenAI) -> None:
    from dspy import lm15

    user = lm15.Message.user("hello")
    request = lm15.Request(model="openai/gpt-4o-mini", system="Be short.", messages=[user])
    served(server)(request)
    instructions = traced.content(CHAT, "gen_ai.system_instructions")
    assert instructions == [{"type": "text", "content": "Be short."}]


def test_a_failed_generation_ends_with_an_error(traced: Traced) -> None:
    with pytest.raises(LookupError):
        FailingLM(lambda: LookupError("no"))("hello")
    assert traced.attributes("chat failing")["gen_ai.response.finish_reasons"] == ("error",)


def test_a_cancelled_call_is_no_failed_generation(traced: Traced) -> None:
    with pytest.raises(KeyboardInterrupt):
        FailingLM(KeyboardInterrupt)("hello")
    assert "gen_ai.response.finish_reasons" not in traced.attributes("chat failing")


def test_the_conversation_of_the_baggage(traced: Traced) -> None:
    token = context.attach(baggage.set_baggage("gen_ai.conversation.id", "c-1"))
    try:
        EchoLM()("hello")
    finally:
        context.detach(token)
    assert traced.attributes("chat echo")["gen_ai.conversation.id"] == "c-1"


@pytest.mark.parametrize("given", ["c-2", {"id": "c-2"}])
def test_the_conversation_of_the_responses_api(traced: Traced, given: Any) -> None:
    EchoLM()("hello", conversation=given)
    assert traced.attributes("chat echo")["gen_ai.conversation.id"] == "c-2"


@pytest.mark.parametrize("mode", [False, "EVENT_ONLY"])
def test_instructions_are_content(trace_with: TraceWith, mode: Any) -> None:
    traced = trace_with(capture_content=mode)
    EchoLM()("hello", instructions="canary-7")
    assert "canary-7" not in everything_in(traced.spans)


def test_instructions_are_redacted(trace_with: TraceWith) -> None:
    traced = trace_with(redact="regex:canary-[0-9]")
    EchoLM()("hello", instructions="Say canary-7 twice.")
    assert "canary-7" not in everything_in(traced.spans)
    assert "Say " in traced.attributes("chat echo")["gen_ai.system_instructions"]
