# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Replies as OpenAI's JSON bodies and server-sent events, for chat and legacy completions.

Shapes follow OpenAI's API reference (Chat Completions, Completions). The Responses API is in
``openai_responses_wire``, embeddings in ``openai_embeddings_wire``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.openai_messages import JSONObject, Reply, Request, Usage

# A fixed moment, so that bodies are equal from run to run.
CREATED = 1_750_000_000


@dataclass(frozen=True)
class Answer:
    """The replies to one request (one for each choice) under one response id."""

    id: str
    request: Request
    replies: Sequence[Reply]

    @property
    def model(self) -> str:
        return self.replies[0].model or self.request.model

    @property
    def usage(self) -> Usage | None:
        """The given usages added up (the prompt counts once), estimated where none is given."""
        if any(reply.omit_usage for reply in self.replies):
            return None
        usages = [reply.usage or _estimate(self.request, reply) for reply in self.replies]
        return Usage(
            prompt=usages[0].prompt,
            completion=sum(usage.completion for usage in usages),
            cached=usages[0].cached,
            reasoning=sum(usage.reasoning for usage in usages),
            more=usages[0].more,
        )

    def tool_call_id(self, choice: int, index: int) -> str:
        given = self.replies[choice].tool_calls[index].id
        number = self.id.rsplit("-", 1)[-1]
        return given or f"call-{number}-{choice}-{index}"


def tokens(text: str) -> int:
    """A rough count: four characters each, at least one."""
    return max(1, len(text) // 4)


def _estimate(request: Request, reply: Reply) -> Usage:
    calls = "".join(call.name + call.arguments_text() for call in reply.tool_calls)
    reasoning = tokens(reply.reasoning) if reply.reasoning else 0
    return Usage(
        prompt=tokens("".join(text for _, text in request.messages)),
        completion=tokens((reply.content or "") + calls) + reasoning,
        reasoning=reasoning,
    )


def finish_reason(reply: Reply) -> str:
    return reply.finish_reason or ("tool_calls" if reply.tool_calls else "stop")


def pieces(text: str) -> list[str]:
    """The text cut before each space, much like a tokenizer would."""
    return re.findall(r"\s*\S+|\s+", text)


def sse(data: JSONObject | str, event: str | None = None) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data)
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {text}\n\n".encode()


def usage_json(usage: Usage) -> JSONObject:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": 0},
        **usage.more,
    }


def _with_usage(body: JSONObject, usage: Usage | None) -> JSONObject:
    return body if usage is None else {**body, "usage": usage_json(usage)}


def chat_body(answer: Answer) -> JSONObject:
    """The answer to ``POST /v1/chat/completions``."""
    choices = [
        {
            "index": index,
            "message": _chat_message(answer, index, reply),
            "logprobs": None,
            "finish_reason": finish_reason(reply),
        }
        for index, reply in enumerate(answer.replies)
    ]
    return _with_usage({**_head(answer, "chat.completion"), "choices": choices}, answer.usage)


def _head(answer: Answer, kind: str) -> JSONObject:
    return {
        "id": answer.id,
        "object": kind,
        "created": CREATED,
        "model": answer.model,
        "system_fingerprint": "fp_fake",
    }


def _chat_message(answer: Answer, choice: int, reply: Reply) -> JSONObject:
    message: JSONObject = {"role": "assistant", "content": reply.content, "refusal": None}
    if reply.reasoning is not None:
        message["reasoning_content"] = reply.reasoning
    if reply.tool_calls:
        message["content"] = reply.content or None
        message["tool_calls"] = [
            {
                "id": answer.tool_call_id(choice, index),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_text()},
            }
            for index, call in enumerate(reply.tool_calls)
        ]
    return message


def _wants_usage(request: Request) -> bool:
    options: JSONObject = request.json.get("stream_options") or {}
    return bool(options.get("include_usage"))


def chat_events(answer: Answer) -> Iterator[bytes]:
    """The answer to ``POST /v1/chat/completions`` with ``stream: true``."""
    head = _head(answer, "chat.completion.chunk")
    for choice, reply in enumerate(answer.replies):
        for delta in _chat_deltas(answer, choice, reply):
            yield sse({**head, "choices": [_streamed(choice, delta, None)]})
        yield sse({**head, "choices": [_streamed(choice, {}, finish_reason(reply))]})
    if _wants_usage(answer.request) and answer.usage is not None:
        yield sse(_with_usage({**head, "choices": []}, answer.usage))
    yield sse("[DONE]")


def _streamed(choice: int, delta: JSONObject, reason: str | None) -> JSONObject:
    return {"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}


def _chat_deltas(answer: Answer, choice: int, reply: Reply) -> Iterator[JSONObject]:
    yield {"role": "assistant", "content": ""}
    for piece in pieces(reply.reasoning or ""):
        yield {"reasoning_content": piece}
    for piece in pieces(reply.content or ""):
        yield {"content": piece}
    for index, call in enumerate(reply.tool_calls):
        opening: dict[str, Any] = {"id": answer.tool_call_id(choice, index), "type": "function"}
        opening["function"] = {"name": call.name, "arguments": ""}
        yield {"tool_calls": [{"index": index, **opening}]}
        for piece in pieces(call.arguments_text()):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def text_body(answer: Answer) -> JSONObject:
    """The answer to ``POST /v1/completions``."""
    choices = [
        _text_choice(index, reply.content or "", finish_reason(reply))
        for index, reply in enumerate(answer.replies)
    ]
    return _with_usage({**_head(answer, "text_completion"), "choices": choices}, answer.usage)


def _text_choice(index: int, text: str, reason: str | None) -> JSONObject:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}


def text_events(answer: Answer) -> Iterator[bytes]:
    """The answer to ``POST /v1/completions`` with ``stream: true``."""
    head = _head(answer, "text_completion")
    for choice, reply in enumerate(answer.replies):
        for piece in pieces(reply.content or ""):
            yield sse({**head, "choices": [_text_choice(choice, piece, None)]})
        yield sse({**head, "choices": [_text_choice(choice, "", finish_reason(reply))]})
    if _wants_usage(answer.request) and answer.usage is not None:
        yield sse(_with_usage({**head, "choices": []}, answer.usage))
    yield sse("[DONE]")
