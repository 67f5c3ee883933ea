# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The values that go in and out of the fake OpenAI server: requests, replies, usage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

JSONObject = dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """Token counts. ``cached`` is a part of ``prompt``, ``reasoning`` a part of ``completion``."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0
    more: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What a gateway adds to the usage of a chat, its charge for instance."""


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants to have called."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict[str, Any])
    """A mapping is written as JSON; a string goes over the wire as it is, also when malformed."""
    id: str | None = None
    """Made from the response id when left out."""

    def arguments_text(self) -> str:
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True)
class Reply:
    """What the model says to one request, whichever endpoint and streamed or not.

    A request for ``n`` choices takes ``n`` replies; their completion tokens are added up.
    """

    content: str | None = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    """``tool_calls`` or ``stop`` when left out."""
    usage: Usage | None = None
    """Estimated from the lengths of the texts when left out."""
    omit_usage: bool = False
    """Say nothing about tokens, as some servers do."""
    reasoning: str | None = None
    model: str | None = None
    """The model that answered; the requested one when left out."""
    delay: float = 0.0
    """Seconds before the first byte."""
    chunk_delay: float = 0.0
    """Seconds before every further piece of a streamed answer."""


@dataclass(frozen=True)
class Request:
    """One request that the fake server received."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    json: JSONObject
    """The body; empty when there was none."""
    time: float
    """Seconds since the epoch."""

    @property
    def api_key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def model(self) -> str:
        return str(self.json.get("model", ""))

    @property
    def stream(self) -> bool:
        return bool(self.json.get("stream"))

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """(role, text) of every message, for all three endpoints that generate text."""
        if "prompt" in self.json:
            return (("user", _text(self.json["prompt"])),)
        instructions = self.json.get("instructions")
        head = (("system", str(instructions)),) if instructions else ()
        given = self.json.get("messages", self.json.get("input", ()))
        if isinstance(given, str):
            return (*head, ("user", given))
        items = [cast("JSONObject", item) for item in given if isinstance(item, dict)]
        return head + tuple((_role(item), _text(item.get("content"))) for item in items)

    @property
    def system(self) -> str:
        """The system (or developer) messages, one after the other."""
        return "\n".join(text for role, text in self.messages if role in {"system", "developer"})

    @property
    def last_user(self) -> str:
        """The newest user message; empty when there is none."""
        return next((text for role, text in reversed(self.messages) if role == "user"), "")


def _role(item: JSONObject) -> str:
    if item.get("type") == "function_call_output":
        return "tool"
    return str(item.get("role", "assistant"))


def _text(content: object) -> str:
    """The text of a message: plain, or the text parts among images and the like."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = cast("list[object]", content)
    return "\n".join(_part_text(part) for part in parts)


def _part_text(part: object) -> str:
    if isinstance(part, dict):
        return str(cast("JSONObject", part).get("text", ""))
    return str(part)
