# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A language model that follows a script, so that the examples run without an API key.

It speaks OpenAI's chat API over real HTTP on this machine, so DSPy uses it like any other
server::

    script = [Rule(when=lambda system, last: "capital" in last, reply="Paris")]
    with ScriptedLLM(script) as llm:
        lm = dspy.LM("openai/gpt-4o-mini", api_base=llm.base_url, api_key="not needed")
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A reply for requests for which ``when(system text, text of the last message)`` is true."""

    when: Callable[[str, str], bool]
    reply: str


class ScriptedLLM:
    """A server that answers each chat request by the first matching rule, in a ``with`` block."""

    def __init__(self, script: Sequence[Rule], *, latency: float = 0.03) -> None:
        """``latency`` is the duration of every answer in seconds."""
        self._script = script
        self._latency = latency
        self._seen: set[str] = set()
        self._count = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ScriptedLLM:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The status and JSON body for one chat request."""
        time.sleep(self._latency)
        messages = [(message["role"], _text(message["content"])) for message in request["messages"]]
        system = "\n".join(text for role, text in messages if role == "system")
        last = messages[-1][1]
        rule = next((rule for rule in self._script if rule.when(system, last)), None)
        if rule is None:
            return 400, {"error": {"message": f"the script has no answer to: {last[:500]}"}}
        prompt_tokens = sum(_tokens(text) for _, text in messages)
        message = {"role": "assistant", "content": rule.reply}
        return 200, {
            "id": f"chatcmpl-scripted-{self._next_number()}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": _tokens(rule.reply),
                "total_tokens": prompt_tokens + _tokens(rule.reply),
                "prompt_tokens_details": {"cached_tokens": self._cached_tokens(system)},
            },
        }

    def _next_number(self) -> int:
        with self._lock:
            self._count += 1
            return self._count

    def _cached_tokens(self, system: str) -> int:
        """The tokens of a system prompt seen before, for which providers charge less."""
        with self._lock:
            known = system in self._seen
            self._seen.add(system)
        return _tokens(system) if known else 0

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self.answer

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = answer(request)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing, to keep the example's output readable."""

        return Handler


def _text(content: Any) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content or ())


def _tokens(text: str) -> int:
    """Approximate number of tokens: English text has about four characters for each token."""
    return max(1, len(text) // 4) if text else 0
