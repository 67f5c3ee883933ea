# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Replies in the shapes of OpenAI's Responses API, whole and as server-sent events."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.openai_messages import JSONObject, Reply, Usage
from tests.support.openai_wire import CREATED, Answer, finish_reason, pieces, sse


def response_body(answer: Answer) -> JSONObject:
    """The answer to ``POST /v1/responses``; this endpoint knows one choice only."""
    reply = answer.replies[0]
    cut_short = finish_reason(reply) == "length"
    body = {
        **_frame(answer),
        "status": "incomplete" if cut_short else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut_short else None,
        "output": _items(answer, reply),
    }
    return body if answer.usage is None else {**body, "usage": _usage(answer.usage)}


def _frame(answer: Answer) -> JSONObject:
    request = answer.request.json
    return {
        "id": answer.id,
        "object": "response",
        "created_at": CREATED,
        "model": answer.model,
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": request.get("temperature"),
        "top_p": request.get("top_p"),
        "tool_choice": request.get("tool_choice", "auto"),
        "tools": request.get("tools", []),
        "output": [],
    }


def _usage(usage: Usage) -> JSONObject:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def _items(answer: Answer, reply: Reply) -> list[JSONObject]:
    items: list[JSONObject] = []
    if reply.reasoning is not None:
        summary = [{"type": "summary_text", "text": reply.reasoning}]
        items.append({"id": f"rs-{answer.id}", "type": "reasoning", "summary": summary})
    if reply.content:
        items.append(
            {
                "id": f"msg-{answer.id}",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [_text_part(reply.content)],
            }
        )
    for index, call in enumerate(reply.tool_calls):
        items.append(
            {
                "id": f"fc-{answer.id}-{index}",
                "type": "function_call",
                "status": "completed",
                "call_id": answer.tool_call_id(0, index),
                "name": call.name,
                "arguments": call.arguments_text(),
            }
        )
    return items


def _text_part(text: str) -> JSONObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def response_events(answer: Answer) -> Iterator[bytes]:
    """The answer to ``POST /v1/responses`` with ``stream: true``."""
    for number, (name, data) in enumerate(_events(answer)):
        yield sse({"type": name, "sequence_number": number, **data}, event=name)


def _events(answer: Answer) -> Iterator[tuple[str, JSONObject]]:
    whole = response_body(answer)
    opening = {**_frame(answer), "status": "in_progress"}
    yield "response.created", {"response": opening}
    yield "response.in_progress", {"response": opening}
    for index, item in enumerate(whole["output"]):
        yield from _item_events(index, item)
    yield f"response.{whole['status']}", {"response": whole}


def _item_events(index: int, item: JSONObject) -> Iterator[tuple[str, JSONObject]]:
    place = {"item_id": item["id"], "output_index": index}
    yield "response.output_item.added", {"output_index": index, "item": _emptied(item)}
    if item["type"] == "message":
        yield from _text_events(place, item["content"][0])
    elif item["type"] == "reasoning":
        text = item["summary"][0]["text"]
        yield from _deltas("response.reasoning_summary_text", text, "text", place, summary_index=0)
    else:
        yield from _deltas(
            "response.function_call_arguments", item["arguments"], "arguments", place
        )
    yield "response.output_item.done", {"output_index": index, "item": item}


def _emptied(item: JSONObject) -> JSONObject:
    empty: dict[str, JSONObject] = {"message": {"content": []}, "reasoning": {"summary": []}}
    started = empty.get(item["type"], {"arguments": ""})
    return {**item, **started, "status": "in_progress"}


def _text_events(place: JSONObject, part: JSONObject) -> Iterator[tuple[str, JSONObject]]:
    here = {**place, "content_index": 0}
    yield "response.content_part.added", {**here, "part": _text_part("")}
    yield from _deltas(
        "response.output_text", part["text"], "text", place, content_index=0, logprobs=[]
    )
    yield "response.content_part.done", {**here, "part": part}


def _deltas(
    event: str, text: str, done_key: str, place: JSONObject, **more: object
) -> Iterator[tuple[str, JSONObject]]:
    here = {**place, **more}
    for piece in pieces(text):
        yield f"{event}.delta", {**here, "delta": piece}
    yield f"{event}.done", {**here, done_key: text}
