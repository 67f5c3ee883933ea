# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What was said to a model and what it said, in the shape of the GenAI conventions."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy._operations.lm.messages import (
    input_messages,
    output_messages,
)
from opentelemetry.instrumentation.dspy._operations.services.usage import usage_attributes
from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.lms import DSPY, EchoLM, Version, served
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("LM")

CHAT = "chat gpt-4o-mini"
PIXEL = "data:image/png;base64," + "A" * 5_000


def text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}


def said(traced: Traced, name: str = "chat echo") -> Any:
    return traced.content(name, "gen_ai.input.messages")


HELLO = [{"role": "user", "parts": [text("hello")]}]
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "hello"}]},
]


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(("hello",), {}), ((), {"prompt": "hello"})],
    ids=["positional", "by keyword"],
)
async def test_a_prompt(traced: Traced, args: Any, kwargs: Any) -> None:
    EchoLM()(*args, **kwargs)
    assert said(traced) == HELLO
    traced.clear()
    await EchoLM().acall(*args, **kwargs)
    assert said(traced) == HELLO


def test_messages(traced: Traced) -> None:
    EchoLM()(messages=TALK)
    assert said(traced) == [
        {"role": "system", "parts": [text("Be short.")]},
        {"role": "user", "parts": [text("hello")]},
    ]


@pytest.mark.skipif(Version("3.3") <= DSPY, reason="positional until 3.2")
def test_messages_by_position(traced: Traced) -> None:
    EchoLM()(None, TALK)
    assert [message["role"] for message in said(traced)] == ["system", "user"]


@pytest.mark.parametrize("how", ["positional", "by keyword"])
@pytest.mark.skipif(Version("3.4") > DSPY, reason="Request came with 3.4")
async def test_an_explicit_request(traced: Traced, server: FakeOpenAI, how: str) -> None:
    from dspy import lm15

    request = lm15.Request(
        model="openai/gpt-4o-mini",
        system="Be short.",
        messages=[lm15.Message.user("hello")],
        config=lm15.Config(temperature=0.25, max_tokens=50),
    )
    args, kwargs = ((request,), {}) if how == "positional" else ((), {"request": request})
    lm = served(server, temperature=0.9)  # holds for prompts, not for requests
    responses = [lm(*args, **kwargs), await lm.acall(*args, **kwargs)]
    for span, response in zip(traced.spans, responses, strict=True):
        assert type(response).__name__ == "Response"
        attributes = dict(span.attributes or {})
        assert attributes["gen_ai.response.id"] == response.id
        assert attributes["gen_ai.usage.output_tokens"] == response.usage.output_tokens
        assert attributes["gen_ai.request.temperature"] == 0.25
        assert attributes["gen_ai.request.max_tokens"] == 50
    traced.clear()
    lm(*args, **kwargs)
    assert said(traced, CHAT) == HELLO
    assert traced.content(CHAT, "gen_ai.system_instructions") == [text("Be short.")]
    (answer,) = traced.content(CHAT, "gen_ai.output.messages")
    assert answer == {"role": "assistant", "parts": [text("some text")], "finish_reason": "stop"}


@pytest.mark.skipif(
    not Version("3.3") <= DSPY < Version("3.4"), reason="LMRequest lived in 3.3 only"
)
def test_a_typed_request_of_3_3(traced: Traced, server: FakeOpenAI) -> None:
    request = dspy.LMRequest.from_call(model="openai/gpt-4o-mini", items=("hello",))
    server.reply_with(Reply("hi", usage=Usage(10, 5)))
    served(server)(request)
    assert said(traced, CHAT) == HELLO
    assert traced.content(CHAT, "gen_ai.output.messages")[0]["parts"] == [text("hi")]
    assert traced.attributes(CHAT)["gen_ai.usage.input_tokens"] == 10


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("a\ud800b", "a"),
        (PIXEL, "data:image/png;base64,[5000 characters, sha256 "),
        ("x" * 9_000, "x" * 100),
    ],
    ids=["no UTF-8", "a data URI", "too long"],
)
def test_a_plain_message_that_cannot_be_recorded_as_it_is(
    trace_with: TraceWith, given: str, recorded: str
) -> None:
    traced = trace_with(capture_content=True, max_content_length=2_000)
    with contextlib.suppress(ValueError):  # some releases refuse what is no Unicode
        EchoLM()(messages=[{"role": "user", "content": given}])
    (message,) = said(traced)
    (part,) = message["parts"]
    assert part["content"].startswith(recorded)
    assert len(part["content"]) < 2_000


def test_plain_messages_are_shown_to_the_redaction_hook(trace_with: TraceWith) -> None:
    traced = trace_with(capture_content=True, redact=lambda operation, field, value: "hidden")
    EchoLM()(messages=[{"role": "user", "content": "hello"}])
    assert said(traced) == "hidden"


def test_an_image_is_told_and_not_carried_along(traced: Traced) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Predict("photo: dspy.Image -> answer")(photo=dspy.Image(url=PIXEL))
    photos = [
        part for message in said(traced) for part in message["parts"] if part["type"] == "blob"
    ]
    (photo,) = photos
    assert (photo["modality"], photo["mime_type"]) == ("image", "image/png")
    assert photo["content"].startswith("[5000 characters, sha256 ")
    sizes = [len(str(value)) for span in traced.spans for value in (span.attributes or {}).values()]
    assert max(sizes) < 4_000


CALL = {"id": "c-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        ({"role": "assistant", "content": None}, []),
        (
            {"role": "assistant", "content": "x", "tool_calls": [CALL]},
            [text("x"), {"type": "tool_call", "id": "c-1", "name": "f", "arguments": {}}],
        ),
        (
            {"role": "tool", "tool_call_id": "c-1", "content": "sunny"},
            [{"type": "tool_call_response", "id": "c-1", "response": "sunny"}],
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]},
            [{"type": "uri", "modality": "image", "uri": "http://x"}],
        ),
        (
            {"role": "user", "content": ["plain", {"type": "input_text", "text": "typed"}]},
            [text("plain"), text("typed")],
        ),
        (
            {"role": "user", "content": [{"type": "file", "file": {"file_id": "f-1"}}]},
            [{"type": "file", "modality": "document", "file_id": "f-1"}],
        ),
    ],
)
def test_each_kind_of_message(message: dict[str, Any], parts: Any) -> None:
    assert input_messages((), {"messages": [message]}) == [
        {"role": message["role"], "parts": parts}
    ]


@pytest.mark.parametrize(
    ("result", "parts"),
    [
        (["x"], [[text("x")]]),
        (["x", "y"], [[text("x")], [text("y")]]),
        ([None], [[]]),
        ([{"text": "x", "logprobs": {}}], [[text("x")]]),
        (
            [{"text": "x", "reasoning_content": "r"}],
            [[{"type": "reasoning", "content": "r"}, text("x")]],
        ),
        (
            [{"text": None, "tool_calls": [CALL]}],
            [[{"type": "tool_call", "id": "c-1", "name": "f", "arguments": {}}]],
        ),
        ("x", [[text("x")]]),
        ([], []),
    ],
)
def test_each_kind_of_result(result: Any, parts: Any) -> None:
    messages = output_messages(result, ("stop",))
    assert [message["parts"] for message in messages] == parts
    assert all(message["role"] == "assistant" for message in messages)
    assert [message.get("finish_reason") for message in messages][:1] == ["stop"][: len(parts)]


OPENAI = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_creation_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
ANTHROPIC = {
    "input_tokens": 10,
    "output_tokens": 5,
    "cache_read_input_tokens": 4,
    "cache_creation_input_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 3},
}
COUNTS = {
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 5,
    "gen_ai.usage.cache_read.input_tokens": 4,
    "gen_ai.usage.cache_creation.input_tokens": 2,
    "gen_ai.usage.reasoning.output_tokens": 3,
}


def as_object(usage: dict[str, Any]) -> Any:
    parts = {
        name: SimpleNamespace(**value) if isinstance(value, dict) else value
        for name, value in usage.items()
    }
    return SimpleNamespace(**parts)


@pytest.mark.parametrize("shape", [dict, as_object], ids=["mapping", "object"])
def test_usage_in_every_shape(shape: Any) -> None:
    assert usage_attributes(shape(OPENAI)) == COUNTS
    # Input tokens are told without those of the cache there, and with them in the conventions.
    assert usage_attributes(shape(ANTHROPIC)) == {**COUNTS, "gen_ai.usage.input_tokens": 16}
    # LiteLLM has both, and the sum under OpenAI's name.
    both = {**ANTHROPIC, "prompt_tokens": 16, "completion_tokens": 5}
    assert usage_attributes(shape(both)) == {**COUNTS, "gen_ai.usage.input_tokens": 16}


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        0,
        {"prompt_tokens": None, "prompt_tokens_details": None},
        {"prompt_tokens": "many", "completion_tokens": True, "prompt_tokens_details": []},
        SimpleNamespace(prompt_tokens=object()),
    ],
)
def test_what_is_no_count_is_left_out(usage: Any) -> None:
    assert usage_attributes(usage) == {}
