# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""DSPy's own LM against a provider over real HTTP: the attributes of its span."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import dspy
import pytest
from opentelemetry.trace import SpanKind

from tests.support.fake_openai import FakeOpenAI, Reply, ToolCall, Usage
from tests.support.faults import Status
from tests.support.lms import DSPY, Version, served
from tests.support.traced import Traced, everything_in

pytestmark = pytest.mark.surface("LM")

# Since 3.4 DSPy prices calls itself and talks to the provider without LiteLLM.
NATIVE = Version("3.4") <= DSPY
CHAT = "chat gpt-4o-mini"


async def call(lm: dspy.LM, mode: str, *args: Any, **kwargs: Any) -> Any:
    return lm(*args, **kwargs) if mode == "sync" else await lm.acall(*args, **kwargs)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_every_fact_of_a_chat_call(traced: Traced, server: FakeOpenAI, mode: str) -> None:
    usage = Usage(1000, 500, cached=400, reasoning=30)
    server.reply_with(Reply("hi", usage=usage, model="gpt-4o-mini-2024-07-18"))
    lm = served(server, temperature=0.0, max_tokens=4000)
    parameters = {"temperature": 0.3, "top_p": 0.5, "seed": 7, "stop": ["END"]}
    penalties = {"frequency_penalty": 0.1, "presence_penalty": 0.2}
    assert await call(lm, mode, "hello", **parameters, **penalties) == ["hi"]
    span = traced.span(CHAT)
    attributes = traced.attributes(CHAT)
    assert span.kind is SpanKind.CLIENT
    assert attributes.pop("dspy.lm.cost.total") == pytest.approx(0.00042)
    assert attributes == {
        "dspy.operation": "lm",
        "dspy.lm.type": "LM",
        "dspy.lm.model_type": "chat",
        "dspy.lm.cache.enabled": False,
        "dspy.lm.cache.hit": False,
        "dspy.lm.retry.max": 3,
        "dspy.lm.cost.source": "dspy" if NATIVE else "litellm",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.temperature": 0.3,
        "gen_ai.request.top_p": 0.5,
        "gen_ai.request.max_tokens": 4000,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("END",),
        "gen_ai.request.frequency_penalty": 0.1,
        "gen_ai.request.presence_penalty": 0.2,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 500,
        "gen_ai.usage.cache_read.input_tokens": 400,
        "gen_ai.usage.reasoning.output_tokens": 30,
        "gen_ai.input.messages": ('[{"role":"user","parts":[{"type":"text","content":"hello"}]}]'),
        "gen_ai.output.messages": (
            '[{"role":"assistant","parts":[{"type":"text","content":"hi"}],"finish_reason":"stop"}]'
        ),
        "server.address": "127.0.0.1",
        "server.port": int(server.base_url.rsplit(":", 1)[1].removesuffix("/v1")),
    }


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_two_choices(traced: Traced, server: FakeOpenAI, mode: str) -> None:
    server.reply_with(Reply("one", usage=Usage(10, 5)), Reply("two", usage=Usage(10, 7)))
    texts = await call(served(server), mode, "hello", n=2, temperature=1.0)
    attributes = traced.attributes(CHAT)
    assert attributes["gen_ai.request.choice.count"] == 2
    assert attributes["gen_ai.response.finish_reasons"] == ("stop", "stop")
    # Since 3.4 two choices are two requests, and the prompt is paid for twice.
    assert attributes["gen_ai.usage.input_tokens"] == (20 if NATIVE else 10)
    assert attributes["gen_ai.usage.output_tokens"] == 12
    messages = traced.content(CHAT, "gen_ai.output.messages")
    assert [message["parts"][0]["content"] for message in messages] == texts
    assert sorted(texts) == ["one", "two"]


@pytest.mark.parametrize(
    ("model_type", "name"), [("text", "text_completion gpt-4o-mini"), ("responses", CHAT)]
)
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_other_endpoints(
    traced: Traced, server: FakeOpenAI, model_type: str, name: str, mode: str
) -> None:
    server.reply_with(Reply("hi", usage=Usage(10, 5, cached=4, reasoning=3)))
    result = await call(served(server, model_type=model_type), mode, "hello")
    assert result in (["hi"], [{"text": "hi"}])  # a mapping in 3.1 to 3.4, for Responses
    attributes = traced.attributes(name)
    usage = {
        key.removeprefix("gen_ai.usage."): value
        for key, value in attributes.items()
        if key.startswith("gen_ai.usage.")
    }
    assert usage == {
        "input_tokens": 10,
        "output_tokens": 5,
        "cache_read.input_tokens": 4,
        "reasoning.output_tokens": 3,
    }
    assert attributes["gen_ai.operation.name"] == name.split(maxsplit=1)[0]
    assert attributes["dspy.lm.model_type"] == model_type
    assert attributes["gen_ai.response.model"] == "gpt-4o-mini"
    assert attributes["gen_ai.response.id"]
    output = traced.content(name, "gen_ai.output.messages")
    assert output[0]["parts"] == [{"type": "text", "content": "hi"}]


def test_counts_of_zero_are_counts(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply("hi", usage=Usage(10, 5)))
    served(server)("hello")
    attributes = traced.attributes(CHAT)
    assert attributes["gen_ai.usage.reasoning.output_tokens"] == 0
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 0


@pytest.mark.skipif(not NATIVE, reason="LiteLLM fills in zeros where the server says nothing")
def test_no_usage_is_not_usage_of_zero(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply("hi", omit_usage=True))
    served(server)("hello")
    names = [name for name in traced.attributes(CHAT) if "usage" in name or "cost" in name]
    assert names == []


@pytest.mark.skipif(
    not NATIVE and find_spec("mcp") is None, reason="LiteLLM imports mcp when tools are given"
)
def test_tool_calls(traced: Traced, server: FakeOpenAI) -> None:
    weather = {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": weather}]
    server.reply_with(Reply(None, tool_calls=(ToolCall("get_weather", {"city": "Paris"}, "c-1"),)))
    served(server)("weather?", tools=tools)
    # The conventions' shape is flat, OpenAI's is nested.
    assert traced.content(CHAT, "gen_ai.tool.definitions") == [{"type": "function", **weather}]
    (message,) = traced.content(CHAT, "gen_ai.output.messages")
    arguments = {"city": "Paris"}
    assert message["parts"] == [
        {"type": "tool_call", "id": "c-1", "name": "get_weather", "arguments": arguments}
    ]
    # DSPy's own client says tool_call, LiteLLM tool_calls.
    assert message["finish_reason"].startswith("tool_call")


def test_reasoning_text_is_a_part_of_its_own(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply("42", reasoning="I think."))
    served(server)("hello")
    (message,) = traced.content(CHAT, "gen_ai.output.messages")
    expected = [{"type": "text", "content": "42"}]
    if Version("3.1") <= DSPY:  # 3.0 drops what the model thought
        expected.insert(0, {"type": "reasoning", "content": "I think."})
    assert message["parts"] == expected


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_retries_are_one_span(traced: Traced, server: FakeOpenAI, mode: str) -> None:
    server.fail_with(Status(429, retry_after=0))
    server.reply_with(Reply("fine", usage=Usage(10, 5)))
    assert await call(served(server, num_retries=2), mode, "hello") == ["fine"]
    assert len(server.requests) == 2
    assert traced.tree("gen_ai.usage.input_tokens") == f"{CHAT} {{gen_ai.usage.input_tokens=10}}"


KEYS = {
    "of OpenAI": "sk-proj-Canary0123456789abcdefghijkl",
    "of Azure": "0123456789abcdefCANARY0123456789",
    "of a private gateway": "correct-horse-battery-staple",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_key_that_the_provider_repeats_is_recorded_nowhere(
    traced: Traced, server: FakeOpenAI, key: str, mode: str
) -> None:
    body = '{"error":{"message":"Incorrect API key provided: {api_key}","code":"invalid_api_key"}}'
    server.fail_with(*[Status(401, body)] * 3)
    lm = served(server, api_key=key, num_retries=0)

    class Program(dspy.Module):
        def forward(self) -> Any:
            return lm("hello")

        async def aforward(self) -> Any:
            return await lm.acall("hello")

    with pytest.raises(Exception, match=r"(?i)api.?key") as caught:
        await Program().acall() if mode == "async" else Program()()
    error = type(caught.value).__name__
    assert traced.tree() == (f"invoke_workflow Program ERROR({error})\n└─ {CHAT} ERROR({error})")
    assert server.requests[0].api_key == key
    assert key not in everything_in(traced.spans)


def test_settings_of_the_client_are_not_recorded(traced: Traced, server: FakeOpenAI) -> None:
    secret = "canary-header-0123456789"
    headers = {"X-Gateway-Auth": secret}
    served(server, extra_headers=headers)("hello")
    assert server.requests[0].headers["x-gateway-auth"] == secret
    assert secret not in everything_in(traced.spans)


def test_a_password_in_an_address_is_not_recorded(traced: Traced, server: FakeOpenAI) -> None:
    secret = "canary-password-0123"
    base = server.base_url.replace("http://", f"http://user:{secret}@")
    server.fail_with(*[Status(404, "no such page")] * 3)
    try:
        served(server, api_base=base, num_retries=0)("hello")
    except Exception:
        # Since 3.4 the address is taken for a host name, and stands in the error's message.
        assert traced.attributes(CHAT)["error.type"]
    assert secret not in everything_in(traced.spans)


@pytest.mark.parametrize(
    ("model", "provider", "name"),
    [
        ("openai/gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("gemini/gemini-2.0-flash", "gcp.gemini", "gemini-2.0-flash"),
        ("bedrock/us.anthropic.claude-v2", "aws.bedrock", "us.anthropic.claude-v2"),
        ("openrouter/meta/llama-3", "openrouter", "meta/llama-3"),
        ("azure/my-deployment", "azure.ai.openai", "my-deployment"),
        ("bedrock/converse/us.anthropic.claude-v2", "aws.bedrock", "us.anthropic.claude-v2"),
        ("text-completion-openai/davinci-002", "openai", "davinci-002"),
        ("vertex_ai_beta/gemini-pro", "gcp.vertex_ai", "gemini-pro"),
        ("watsonx_text/ibm/granite", "ibm.watsonx.ai", "ibm/granite"),
        ("hosted_vllm/meta-llama/Llama-3", "hosted_vllm", "meta-llama/Llama-3"),
        ("ollama_chat/llama3.2:1b", "ollama_chat", "llama3.2:1b"),
        ("gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("claude-opus-4-5", "anthropic", "claude-opus-4-5"),
        ("gemini-2.5-pro", "gcp.vertex_ai", "gemini-2.5-pro"),
        ("openai-chat/gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("openai_chat/gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("bedrock-anthropic/claude-opus-4-7", "aws.bedrock", "claude-opus-4-7"),
        ("vertex/gemini-2.5-pro", "gcp.vertex_ai", "gemini-2.5-pro"),
    ],
)
def test_provider_and_model_of_a_name(model: str, provider: str, name: str) -> None:
    from opentelemetry.instrumentation.dspy._calls.call import Call, Runtime
    from opentelemetry.instrumentation.dspy._operations.lm.language_model import LMOperation
    from opentelemetry.instrumentation.dspy._settings import Settings

    operation = LMOperation(Runtime(None, Settings()), Settings())  # type: ignore[arg-type]
    start_name, attributes, _ = operation.start(Call(operation, dspy.LM(model), (), {}, None))
    assert start_name == f"chat {name}"
    assert attributes["gen_ai.provider.name"] == provider
    assert attributes["gen_ai.request.model"] == name


def test_a_provider_that_is_named_beside_the_model(traced: Traced, server: FakeOpenAI) -> None:
    lm = dspy.LM(
        "my-own/model",
        custom_llm_provider="openai",
        api_base=server.base_url,
        api_key="test",
        cache=False,
    )
    try:
        lm("hello")
    except Exception:
        # From 3.4 on this has DSPy look for the provider "my-own"; what is recorded is the same.
        assert traced.attributes("chat my-own/model")["error.type"]
    attributes = traced.attributes("chat my-own/model")
    assert attributes["gen_ai.provider.name"] == "openai"
    assert attributes["gen_ai.request.model"] == "my-own/model"


OVERRIDES: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "openai/gpt-4o"}, "openai", "gpt-4o"),
    ({"model": "anthropic/claude-opus-4-5"}, "anthropic", "claude-opus-4-5"),
    ({"model": "gpt-4o"}, "openai", "gpt-4o"),
    ({"custom_llm_provider": "azure"}, "azure.ai.openai", "openai/gpt-4o-mini"),
    ({"model": "mine/x", "custom_llm_provider": "openai"}, "openai", "mine/x"),
    ({"model": None}, "openai", "gpt-4o-mini"),
]


@pytest.mark.parametrize(("options", "provider", "model"), OVERRIDES, ids=str)
def test_model_and_provider_that_a_call_names(
    options: dict[str, Any], provider: str, model: str
) -> None:
    from opentelemetry.instrumentation.dspy._calls.call import Call, Runtime
    from opentelemetry.instrumentation.dspy._operations.lm.language_model import LMOperation
    from opentelemetry.instrumentation.dspy._settings import Settings

    operation = LMOperation(Runtime(None, Settings()), Settings())  # type: ignore[arg-type]
    lm = dspy.LM("openai/gpt-4o-mini")
    name, attributes, _ = operation.start(Call(operation, lm, ("hello",), options, None))
    assert name == f"chat {model}"
    assert attributes["gen_ai.provider.name"] == provider
    assert attributes["gen_ai.request.model"] == model


@pytest.mark.skipif(not NATIVE, reason="before 3.4, DSPy does not let a call name its model")
def test_another_model_for_one_call(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply("hi", usage=Usage(1000, 500)))
    served(server)("hello", model="openai/gpt-4o")
    assert server.requests[0].model == "gpt-4o"
    attributes = traced.attributes("chat gpt-4o")
    assert attributes["gen_ai.request.model"] == "gpt-4o"
    assert attributes["gen_ai.response.model"] == "gpt-4o"
    assert attributes["dspy.lm.cost.total"] == pytest.approx(0.0075)


@pytest.mark.parametrize(
    ("asked", "said", "recorded"),
    [
        ("zai/glm-4.6", "glm-4.6-0930", "glm-4.6-0930"),
        ("openai/openai/gpt-oss-20b", "openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("openrouter/openai/gpt-4o", "openai/gpt-4o", "openai/gpt-4o"),
        ("openai/gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("gpt-4o", "gpt-4o", "gpt-4o"),
    ],
)
def test_litellms_prefix_is_no_part_of_the_model_that_answered(
    traced: Traced, server: FakeOpenAI, asked: str, said: str, recorded: str
) -> None:
    server.reply_with(Reply("hi", model=said))
    served(server, asked)("hello")
    (span,) = traced.spans
    assert (span.attributes or {})["gen_ai.response.model"] == recorded


def test_another_model_for_a_copy(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply("hi", usage=Usage(1000, 500)))
    served(server).copy(model="openai/gpt-4o")("hello")
    attributes = traced.attributes("chat gpt-4o")
    assert attributes["gen_ai.response.model"] == "gpt-4o"
    assert attributes["dspy.lm.cost.total"] == pytest.approx(0.0075)
