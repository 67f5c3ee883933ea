# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A tracking server in a separate process that accepts every request and stores nothing."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_EXPERIMENT = {"experiment": {"experiment_id": "1", "name": "any", "lifecycle_stage": "active"}}


class StubServer:
    """A server that runs until its process ends.

    Args:
        seconds: Delay of the answer to each batch of spans.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        class Handler(_Handler):
            delay = seconds

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def uri(self) -> str:
        """The tracking URI."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    delay = 0.0

    def do_GET(self) -> None:
        self._answer("application/json", json.dumps(_EXPERIMENT).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.delay)
        self._answer("application/x-protobuf", b"")

    def _answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""
