# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Images, audio and files, wherever they stand: told by type, size and hash, not carried along."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy._content.redaction import shorten_data_uris
from opentelemetry.instrumentation.dspy._operations.lm.messages import input_messages
from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI
from tests.support.lms import EchoLM, answering, served
from tests.support.traced import Traced, everything_in

PAYLOAD = base64.b64encode(bytes(range(256)) * 12).decode()
URI = f"data:image/png;base64,{PAYLOAD}"
NOTE = f"[{len(PAYLOAD)} characters, sha256 "


def assert_not_carried(traced: Traced, *types: str) -> None:
    recorded = everything_in(traced.spans)
    assert PAYLOAD[300:400] not in recorded
    for kind in types:
        assert f"data:{kind};base64,{NOTE}" in recorded


def test_audio(traced: Traced) -> None:
    sound = dspy.Audio(data=PAYLOAD, audio_format="wav")
    with dspy.context(lm=EchoLM()):
        predict = dspy.Predict("sound: dspy.Audio -> answer")
        predict.demos = [dspy.Example(sound=sound, answer="a")]
        predict(sound=sound)
    assert sound.data == PAYLOAD
    assert_not_carried(traced, "audio/wav")
    given = traced.content("invoke_workflow Predict", "dspy.module.input")["sound"]
    assert given["audio_format"] == "wav"
    assert given["data"].startswith(f"data:audio/wav;base64,{NOTE}")
    messages = traced.content("chat echo", "gen_ai.input.messages")
    sounds = [part for message in messages for part in message["parts"] if part["type"] == "blob"]
    assert [part["modality"] for part in sounds] == ["audio", "audio"]
    assert {part["mime_type"] for part in sounds} == {"audio/wav"}


@pytest.mark.skipif(not hasattr(dspy, "File"), reason="dspy.File came with 3.1")
def test_a_file(traced: Traced) -> None:
    document = dspy.File(file_data=f"data:application/pdf;base64,{PAYLOAD}", filename="a.pdf")
    with dspy.context(lm=EchoLM()):
        dspy.Predict("paper: dspy.File -> answer")(paper=document)
    assert_not_carried(traced, "application/pdf")


def test_inside_of_a_text(traced: Traced) -> None:
    text = f"Look: ![one]({URI}) and {URI}, and that is it."
    with dspy.context(lm=answering(text)):
        result = dspy.Predict("question -> answer")(question=text)
    assert PAYLOAD in result.answer
    assert_not_carried(traced, "image/png")
    shown = traced.content("invoke_workflow Predict", "dspy.module.input")["question"]
    assert shown.startswith("Look: ![one](data:image/png;base64,[")
    assert shown.endswith("], and that is it.")
    assert shown.count(NOTE) == 2


def test_what_a_tool_of_an_agent_returns(traced: Traced, server: FakeOpenAI) -> None:
    """It goes into every later prompt of the agent, as text between marks of DSPy's."""

    def draw(what: str) -> dspy.Image:
        return dspy.Image(url=URI)

    step = {"next_thought": "t", "next_tool_name": "draw", "next_tool_args": {"what": "it"}}
    server.reply_with(chat_text(**step))
    with dspy.context(lm=served(server)):
        dspy.ReAct("question -> answer", tools=[draw], max_iters=2)(question="?")
    assert PAYLOAD in json.dumps([request.json for request in server.requests])
    assert_not_carried(traced, "image/png")


def test_as_a_query(traced: Traced) -> None:
    class Gallery(dspy.Retrieve):
        def forward(self, query: str, k: int | None = None) -> Any:
            return dspy.Prediction(passages=[f"![it]({query})"])

    Gallery(k=1)(URI)
    assert_not_carried(traced, "image/png")


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "input_audio", "input_audio": {"data": PAYLOAD, "format": "mp3"}}, "blob"),
        ({"type": "input_audio", "input_audio": PAYLOAD}, "blob"),
        ({"type": "input_audio", "input_audio": None}, "text"),
        ({"type": "input_audio", "input_audio": {"data": None}}, "text"),
        ({"type": "input_audio"}, "text"),
    ],
)
def test_each_kind_of_audio(part: dict[str, Any], kind: str) -> None:
    ((only,),) = [m["parts"] for m in input_messages((), {"messages": [{"content": [part]}]})]
    assert only["type"] == kind
    assert PAYLOAD not in json.dumps(only)


def test_a_part_of_a_typed_request() -> None:
    part = SimpleNamespace(type="image", media_type="image/png", data=PAYLOAD, url=None)
    message = SimpleNamespace(role="user", parts=(part,))
    ((only,),) = [m["parts"] for m in input_messages((), {"messages": [message]})]
    assert (only["type"], only["modality"], only["mime_type"]) == ("blob", "image", "image/png")
    assert only["content"].startswith(NOTE)


SHORT = [
    "data:image/gif;base64,R0lGODlhAQABAAAAACw=",
    "data:;base64,QQ==",
    "data:application/octet-stream;name=a.bin;base64,c2VjcmV0",
    "data:text/plain;charset=utf-8;base64,c2Vj%2Bcg%3D%3D",
]


@pytest.mark.parametrize("uri", SHORT)
@pytest.mark.parametrize("text", ["{}", "so: {}", "<img src='{}'>", '{{"a": "{}"}}'])
def test_a_short_data_uri_is_replaced(traced: Traced, uri: str, text: str) -> None:
    given, payload = text.format(uri), uri.partition(",")[2]
    tool = dspy.Tool(lambda text: text, name="echo", args={"text": {"type": "string"}})
    assert tool(text=given) == given
    EchoLM(reply=given)(given)
    EchoLM(reply="b")(messages=[{"role": "user", "content": given}])
    recorded = everything_in(traced.spans)
    assert payload not in recorded
    assert f"[{len(payload)} characters, sha256 " in recorded


@pytest.mark.parametrize("uri", ["data:text/plain,hello", "data:image/svg+xml;utf8,<svg a='b'/>"])
def test_a_data_uri_of_text_is_replaced(traced: Traced, uri: str) -> None:
    EchoLM()(uri)
    assert uri.partition(",")[2] not in everything_in(traced.spans)


def test_a_data_uri_in_an_error_is_replaced(traced: Traced) -> None:
    def fail(text: str) -> str:
        raise ValueError(text)

    for uri in (SHORT[0], URI):
        with pytest.raises(ValueError, match="data:"):
            dspy.Tool(fail, name="fail", args={"text": {"type": "string"}})(text=uri)
        assert uri.partition(",")[2][:100] not in everything_in(traced.spans)


def test_what_is_shortened_stays_as_it_is() -> None:
    for uri in (*SHORT, URI):
        shortened = shorten_data_uris(uri)
        assert shorten_data_uris(shortened) == shortened
        assert shorten_data_uris(f"so: {shortened}") == f"so: {shortened}"


@pytest.mark.parametrize(
    "text",
    [
        "data: none",
        "data: yes, as the first column shows",
        "data:yes, as the first column shows",
        "a;base64,b",
        f"base64,{PAYLOAD}",
        f"data:{'x' * 200};base64,{PAYLOAD}",
        PAYLOAD,
    ],
)
def test_what_is_no_data_uri_stays(text: str) -> None:
    if PAYLOAD not in text:
        assert shorten_data_uris(text) == text
    assert shorten_data_uris(f"so: {text}") == f"so: {text}"
