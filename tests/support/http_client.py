# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""An HTTP client without retries, so that a test sees the actual response."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Status and body of one POST on a connection of its own."""
    status, _, text = post_with_headers(url, body, headers)
    return status, text


def post_with_headers(
    url: str, body: Any, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one POST; a body that is not bytes is sent as JSON."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request("POST", parts.path, payload, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def post_json(url: str, body: Any) -> dict[str, Any]:
    """The JSON answer to one POST, which has to succeed."""
    status, text = post(url, body)
    assert status == 200, text
    return json.loads(text)


def chat(question: str, **more: Any) -> dict[str, Any]:
    """A chat request of one message."""
    return {"model": "m", "messages": [{"role": "user", "content": question}], **more}


def sse_events(body: bytes) -> list[dict[str, Any]]:
    """The data of the server-sent events, without the final [DONE]."""
    lines = [line[len("data: ") :] for line in body.decode().splitlines() if line[:5] == "data:"]
    return [json.loads(line) for line in lines if line != "[DONE]"]
