# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import json
import struct
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.fake_openai import FakeOpenAI, Reply, Request, ToolCall, Usage
from tests.support.faults import Status
from tests.support.http_client import chat, post, post_json, sse_events


def test_chat_reply_with_everything(server: FakeOpenAI) -> None:
    server.reply_with(
        Reply(
            "Paris",
            usage=Usage(prompt=20, completion=9, cached=4, reasoning=3),
            reasoning="France, so",
            model="gpt-4o-mini-2024-07-18",
            finish_reason="length",
        )
    )
    body = post_json(f"{server.base_url}/chat/completions", chat("capital?"))
    assert (body["id"], body["object"]) == ("chatcmpl-1", "chat.completion")
    assert body["model"] == "gpt-4o-mini-2024-07-18"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["content"] == "Paris"
    assert body["choices"][0]["message"]["reasoning_content"] == "France, so"
    assert body["usage"]["total_tokens"] == 29
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 4
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3


def test_ids_are_unique_and_counted_for_each_endpoint(server: FakeOpenAI) -> None:
    ask = chat("hi")
    ids = [post_json(f"{server.base_url}/chat/completions", ask)["id"] for _ in range(2)]
    ids.append(post_json(f"{server.base_url}/completions", {"model": "m", "prompt": "hi"})["id"])
    ids.append(post_json(f"{server.base_url}/responses", {"model": "m", "input": "hi"})["id"])
    assert ids == ["chatcmpl-1", "chatcmpl-2", "cmpl-1", "resp-1"]


def test_choices_take_one_reply_each_and_add_up_their_tokens(server: FakeOpenAI) -> None:
    server.reply_with(Reply("one", usage=Usage(10, 1)), Reply("two", usage=Usage(10, 2)))
    body = post_json(f"{server.base_url}/chat/completions", chat("hi", n=2))
    assert [choice["message"]["content"] for choice in body["choices"]] == ["one", "two"]
    assert body["usage"]["prompt_tokens"] == 10
    assert body["usage"]["completion_tokens"] == 3


def test_usage_can_be_left_out(server: FakeOpenAI) -> None:
    server.reply_with(Reply("hi", omit_usage=True))
    assert "usage" not in post_json(f"{server.base_url}/chat/completions", chat("hi"))


def test_usage_is_estimated_from_the_texts(server: FakeOpenAI) -> None:
    server.reply_with(Reply("x" * 40))
    usage = post_json(f"{server.base_url}/chat/completions", chat("y" * 400))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (100, 10)


def test_tool_calls(server: FakeOpenAI) -> None:
    calls = (ToolCall("add", {"a": 1}), ToolCall("broken", "{not json", id="mine"))
    server.reply_with(Reply(None, tool_calls=calls))
    choice = post_json(f"{server.base_url}/chat/completions", chat("hi"))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert [(call["id"], call["function"]) for call in choice["message"]["tool_calls"]] == [
        ("call-1-0-0", {"name": "add", "arguments": '{"a": 1}'}),
        ("mine", {"name": "broken", "arguments": "{not json"}),
    ]


def test_streamed_chat_with_usage(server: FakeOpenAI) -> None:
    server.reply_with(Reply("two words", reasoning="so so", usage=Usage(3, 2)))
    ask = chat("hi", stream=True, stream_options={"include_usage": True})
    _, raw = post(f"{server.base_url}/chat/completions", ask)
    *chunks, last, usage = sse_events(raw)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "two words"
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "so so"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 5)
    assert raw.endswith(b"data: [DONE]\n\n")


def test_streamed_chat_without_usage(server: FakeOpenAI) -> None:
    _, raw = post(f"{server.base_url}/chat/completions", chat("hi", stream=True))
    assert all("usage" not in chunk for chunk in sse_events(raw))


def test_streamed_tool_call_comes_in_pieces(server: FakeOpenAI) -> None:
    server.reply_with(Reply(None, tool_calls=(ToolCall("add", {"a": 1, "b": 2}),)))
    _, raw = post(f"{server.base_url}/chat/completions", chat("hi", stream=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in sse_events(raw)]
    parts = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert (parts[0]["id"], parts[0]["function"]["name"]) == ("call-1-0-0", "add")
    assert len(parts) > 2
    arguments = "".join(part["function"]["arguments"] for part in parts)
    assert json.loads(arguments) == {"a": 1, "b": 2}


def test_text_completion_whole_and_streamed(server: FakeOpenAI) -> None:
    server.reply_with("some words", "some words")
    ask = {"model": "m", "prompt": "say"}
    body = post_json(f"{server.base_url}/completions", ask)
    _, raw = post(f"{server.base_url}/completions", {**ask, "stream": True})
    assert body["choices"][0]["text"] == "some words"
    assert "".join(event["choices"][0]["text"] for event in sse_events(raw)) == "some words"


_EVERYTHING = Reply(
    "Paris", reasoning="so", tool_calls=(ToolCall("add", {"a": 1}),), usage=Usage(5, 4, 2, 1)
)


def test_responses_body(server: FakeOpenAI) -> None:
    server.reply_with(_EVERYTHING)
    ask = {"model": "m", "instructions": "be brief", "input": [{"role": "user", "content": "hi"}]}
    body = post_json(f"{server.base_url}/responses", ask)
    reasoning, message, call = body["output"]
    assert body["status"] == "completed"
    assert reasoning["summary"] == [{"type": "summary_text", "text": "so"}]
    assert message["content"][0]["text"] == "Paris"
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "add", '{"a": 1}')
    assert body["usage"]["input_tokens_details"] == {"cached_tokens": 2}
    assert body["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}
    assert server.requests[0].messages == (("system", "be brief"), ("user", "hi"))


def test_responses_streamed_end_with_the_whole_response(server: FakeOpenAI) -> None:
    server.reply_with(_EVERYTHING, _EVERYTHING)
    ask = {"model": "m", "input": "hi"}
    whole = post_json(f"{server.base_url}/responses", ask)
    events = sse_events(post(f"{server.base_url}/responses", {**ask, "stream": True})[1])
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.completed"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["usage"] == whole["usage"]
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in deltas) == "Paris"


def test_responses_cut_short(server: FakeOpenAI) -> None:
    server.reply_with(Reply("Par", finish_reason="length"))
    body = post_json(f"{server.base_url}/responses", {"model": "m", "input": "hi"})
    assert body["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}


def test_embeddings_in_both_encodings(server: FakeOpenAI) -> None:
    url, ask = f"{server.base_url}/embeddings", {"model": "m", "input": ["a", "b"], "dimensions": 4}
    floats = [item["embedding"] for item in post_json(url, ask)["data"]]
    packed = post_json(url, {**ask, "encoding_format": "base64"})["data"]
    decoded = [struct.unpack("<4f", base64.b64decode(item["embedding"])) for item in packed]
    assert [pytest.approx(vector) for vector in floats] == [list(vector) for vector in decoded]
    assert floats[0] != floats[1]
    assert sum(value * value for value in floats[0]) == pytest.approx(1.0)


def test_models(server: FakeOpenAI) -> None:
    with urllib.request.urlopen(f"{server.base_url}/models") as response:
        names = [model["id"] for model in json.load(response)["data"]]
    assert "gpt-4o-mini" in names


def test_unknown_endpoint(server: FakeOpenAI) -> None:
    assert post(f"{server.base_url}/nothing", {})[0] == 404


def test_faults_come_before_replies_and_look_like_openai_errors(server: FakeOpenAI) -> None:
    server.reply_with("fine")
    server.fail_with(Status(401, "Incorrect API key provided: {api_key}"))
    url, headers = f"{server.base_url}/chat/completions", {"Authorization": "Bearer sk-1"}
    status, body = post(url, chat("hi"), headers)
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (401, "invalid_api_key")
    assert error["message"] == "Incorrect API key provided: sk-1"
    assert post_json(url, chat("hi"))["choices"][0]["message"]["content"] == "fine"
    assert [request.api_key for request in server.requests] == ["sk-1", ""]


def test_reset_forgets_all_but_the_responder() -> None:
    with FakeOpenAI(lambda request: Reply(request.last_user.upper())) as server:
        url = f"{server.base_url}/chat/completions"
        post_json(url, chat("hi"))
        server.reply_with("queued")
        server.fail_with(Status(500))
        server.reset()
        assert server.requests == []
        body = post_json(url, chat("hi"))
    assert (body["id"], body["choices"][0]["message"]["content"]) == ("chatcmpl-1", "HI")


def test_fifty_clients_get_their_own_answer() -> None:
    together = threading.Barrier(50)

    def echo(request: Request) -> Reply:
        return Reply(request.last_user, delay=0.01)

    def ask(number: int) -> tuple[str, str]:
        together.wait(10)
        body = post_json(url, chat(f"question {number}"))
        return body["id"], body["choices"][0]["message"]["content"]

    with FakeOpenAI(echo) as server, ThreadPoolExecutor(50) as pool:
        url = f"{server.base_url}/chat/completions"
        answers = list(pool.map(ask, range(50)))
        assert len(server.requests) == 50
    assert [text for _, text in answers] == [f"question {number}" for number in range(50)]
    assert len({response_id for response_id, _ in answers}) == 50


def test_request_texts_from_content_parts() -> None:
    parts = [{"type": "text", "text": "look"}, {"type": "image_url"}]
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]
    request = Request("/v1/chat/completions", {}, {"messages": messages}, 0.0)
    assert request.system == "be brief"
    assert request.last_user.strip() == "look"
