# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server on loopback, over real HTTP, that says what a test wants.

Example::

    with FakeOpenAI() as server:
        lm = dspy.LM("openai/gpt-4o-mini", api_base=server.base_url, api_key="test")
        server.reply_with(chat_text(answer="Paris"))
        server.fail_with(Status(429, retry_after=0))
"""

from __future__ import annotations

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from types import TracebackType

from tests.support import openai_wire as wire
from tests.support.dspy_prompts import answer_dspy_prompt
from tests.support.faults import Fault
from tests.support.loopback import HttpReply, HttpRequest, LoopbackServer
from tests.support.openai_embeddings_wire import embeddings_body
from tests.support.openai_messages import JSONObject, Reply, Request, ToolCall, Usage
from tests.support.openai_responses_wire import response_body, response_events

__all__ = ["FakeOpenAI", "Reply", "Request", "Responder", "ToolCall", "Usage"]

Responder = Callable[[Request], Reply]

MODELS = ("gpt-4o-mini", "gpt-4o", "o3-mini", "text-embedding-3-small")

# The id's prefix, the body and the events for each endpoint that generates text.
_GENERATES: dict[
    str,
    tuple[str, Callable[[wire.Answer], JSONObject], Callable[[wire.Answer], Iterator[bytes]]],
] = {
    "/v1/chat/completions": ("chatcmpl", wire.chat_body, wire.chat_events),
    "/v1/completions": ("cmpl", wire.text_body, wire.text_events),
    "/v1/responses": ("resp", response_body, response_events),
}

_ERROR_TYPES = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


class FakeOpenAI:
    """Chat, completions, responses, embeddings and models; use it as a context manager.

    Each request is answered by the oldest queued reply, and by ``responder`` when none is queued;
    queued faults come before both. All methods may be called from any thread.

    Args:
        responder: Makes the reply to a request. The default one understands DSPy's prompts.
        delay: Seconds before every answer, on top of the reply's own delay.
    """

    def __init__(self, responder: Responder = answer_dspy_prompt, *, delay: float = 0.0) -> None:
        self._responder = responder
        self._delay = delay
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._replies: deque[Reply] = deque()
        self._ids: Counter[str] = Counter()
        self._http = LoopbackServer(self._answer, error=_error, received=self._record)

    def __enter__(self) -> FakeOpenAI:
        self._http.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.__exit__(exc_type, exc, traceback)

    def start(self) -> None:
        """Listen; after ``stop()`` on the same port again."""
        self._http.start()

    def stop(self) -> None:
        """Stop listening, as if the provider went down."""
        self._http.stop()

    @property
    def base_url(self) -> str:
        """What clients take as the base URL; it ends in ``/v1``."""
        return f"{self._http.url}/v1"

    @property
    def requests(self) -> list[Request]:
        """A copy of the requests so far, oldest first, those that failed on purpose included."""
        with self._lock:
            return list(self._requests)

    def reply_with(self, *replies: Reply | str) -> None:
        """Queue replies, used up one for each choice; a text is a reply with that content."""
        with self._lock:
            self._replies.extend(
                Reply(reply) if isinstance(reply, str) else reply for reply in replies
            )

    def fail_with(self, *faults: Fault) -> None:
        """Queue faults, used up one for each POST request before any reply is."""
        self._http.fail_with(*faults)

    def reset(self) -> None:
        """Forget requests, queued replies, queued faults and ids; keep the responder."""
        self._http.clear_faults()
        with self._lock:
            self._requests.clear()
            self._replies.clear()
            self._ids.clear()

    def _record(self, request: HttpRequest) -> None:
        with self._lock:
            self._requests.append(_parsed(request))

    def _answer(self, raw: HttpRequest) -> HttpReply:
        request = _parsed(raw)
        if request.path == "/v1/models":
            return _json(_models())
        if request.path == "/v1/embeddings":
            self._http.closing.wait(self._delay)
            return _json(embeddings_body(request))
        if request.path not in _GENERATES:
            return _error(404, f"no such endpoint: {request.path}")
        return self._generate(request)

    def _generate(self, request: Request) -> HttpReply:
        prefix, body, events = _GENERATES[request.path]
        replies = [self._next_reply(request) for _ in range(int(request.json.get("n") or 1))]
        answer = wire.Answer(self._next_id(prefix), request, replies)
        self._http.closing.wait(self._delay + replies[0].delay)
        if not request.stream:
            return _json(body(answer))
        return HttpReply(
            headers={"Content-Type": "text/event-stream; charset=utf-8"},
            body=self._paced(events(answer), replies[0].chunk_delay),
        )

    def _paced(self, events: Iterator[bytes], pause: float) -> Iterator[bytes]:
        for number, event in enumerate(events):
            if number:
                self._http.closing.wait(pause)
            yield event

    def _next_reply(self, request: Request) -> Reply:
        with self._lock:
            if self._replies:
                return self._replies.popleft()
        return self._responder(request)

    def _next_id(self, prefix: str) -> str:
        with self._lock:
            self._ids[prefix] += 1
            return f"{prefix}-{self._ids[prefix]}"


def _parsed(request: HttpRequest) -> Request:
    path = request.path.split("?", 1)[0]
    body: JSONObject = json.loads(request.body) if request.body else {}
    return Request(path, request.headers, body, request.time)


def _json(body: JSONObject, status: int = 200) -> HttpReply:
    headers = {"Content-Type": "application/json"}
    return HttpReply(status, headers, json.dumps(body).encode())


def _error(status: int, message: str) -> HttpReply:
    kind, code = _ERROR_TYPES.get(status, ("server_error", None))
    error = {"message": message, "type": kind, "param": None, "code": code}
    return _json({"error": error}, status)


def _models() -> JSONObject:
    data = [
        {"id": name, "object": "model", "created": wire.CREATED, "owned_by": "fake"}
        for name in MODELS
    ]
    return {"object": "list", "data": data}
