# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A threaded HTTP server on loopback that answers through a function and fails on request.

Every connection has its own thread. ``LoopbackServer`` may be used from any thread; its lock
guards the queue of faults, the recorded errors and the set of open connections.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, TypeAlias

from tests.support.faults import Fault, HalfBody, Hang, Reset, Status

Body: TypeAlias = "bytes | Iterable[bytes]"


@dataclass(frozen=True)
class HttpRequest:
    """One request as it arrived. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    time: float
    """Seconds since the epoch when the whole request had been read."""


@dataclass(frozen=True)
class HttpReply:
    """An answer. A body that is not ``bytes`` is sent piece by piece as it is made."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Body = b""


def _plain_error(status: int, message: str) -> HttpReply:
    return HttpReply(status, {"Content-Type": "text/plain"}, message.encode())


class LoopbackServer:
    """Serves ``answer`` on 127.0.0.1 and a free port between ``start()`` and ``stop()``.

    Queued faults are used up by POST requests, oldest first, before anything is answered;
    ``received`` sees every request, those that meet a fault too. An exception in ``answer``
    becomes a 500, and is raised again when the ``with`` block ends, so that a mistake in a test's
    own responder cannot hide behind the client's retries.
    """

    def __init__(
        self,
        answer: Callable[[HttpRequest], HttpReply],
        *,
        error: Callable[[int, str], HttpReply] = _plain_error,
        received: Callable[[HttpRequest], None] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answer = answer
        self._error = error
        self._received = received
        self.tls = tls
        self._faults: deque[Fault] = deque()
        self._errors: list[BaseException] = []
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.closing = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._port = 0

    def start(self) -> None:
        """Listen on a free port; after a ``stop()`` on the same port as before."""
        self.closing.clear()
        self._server = _Server(self, self._port)
        self._port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="loopback-server", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Free the port and break every open connection, also one that hangs."""
        server, thread = self._server, self._thread
        if server is None or thread is None:
            return
        self._server = self._thread = None
        self.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
        with self._lock:
            open_connections = list(self._connections)
        for connection in open_connections:
            # Already gone when the client was faster.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> LoopbackServer:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if exc is None:
            self.raise_errors()

    @property
    def url(self) -> str:
        """``http://127.0.0.1:<port>``, or https with ``tls``; without a slash at the end."""
        if not self._port:
            raise RuntimeError("the server was never started")
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self._port}"

    def fail_with(self, *faults: Fault) -> None:
        """Queue faults for the next POST requests, one each."""
        with self._lock:
            self._faults.extend(faults)

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()

    def raise_errors(self) -> None:
        """Raise the first exception that ``answer`` had, if there was one."""
        with self._lock:
            errors = list(self._errors)
            self._errors.clear()
        if errors:
            raise errors[0]

    def record(self, request: HttpRequest) -> None:
        if self._received is not None:
            self._received(request)

    def next_fault(self) -> Fault | None:
        with self._lock:
            return self._faults.popleft() if self._faults else None

    def reply_to(self, request: HttpRequest) -> HttpReply:
        try:
            return self._answer(request)
        except Exception as error:
            with self._lock:
                self._errors.append(error)
            return self._error(500, f"the test's responder raised {type(error).__name__}: {error}")

    def reply_for_status(self, fault: Status, request: HttpRequest) -> HttpReply:
        message = (fault.body or f"injected {fault.status}").replace(
            "{api_key}", _credential(request.headers)
        )
        reply = self._error(fault.status, message)
        return HttpReply(reply.status, {**reply.headers, **fault.all_headers()}, reply.body)

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)


def _credential(headers: Mapping[str, str]) -> str:
    return headers.get("authorization", "").removeprefix("Bearer ") or headers.get("api-key", "")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The default of 5 makes the kernel refuse part of a burst of clients.
    request_queue_size = 256

    def __init__(self, owner: LoopbackServer, port: int) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", port), _Handler)
        if owner.tls is not None:
            self.socket = owner.tls.wrap_socket(self.socket, server_side=True)

    def server_bind(self) -> None:
        # HTTPServer's own version looks the host name up, which can take seconds when offline.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that give up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Header and body leave in two writes; with Nagle's algorithm the second one waits 40 ms.
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.owner.opened(self.connection)

    def finish(self) -> None:
        self.server.owner.closed(self.connection)
        # The client may be gone already, or the connection reset on purpose.
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the tests look at the recorded requests."""

    def do_GET(self) -> None:
        self._send(self.server.owner.reply_to(self._read()))

    def do_POST(self) -> None:
        owner = self.server.owner
        request = self._read()
        fault = owner.next_fault()
        if fault is None:
            self._send(owner.reply_to(request))
        elif isinstance(fault, Status):
            self._send(owner.reply_for_status(fault, request))
        elif isinstance(fault, HalfBody):
            self._send_half(owner.reply_to(request))
        else:
            self._say_nothing(fault, request)

    do_PATCH = do_POST
    do_PUT = do_POST

    def _read(self) -> HttpRequest:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b"".join(iter(self._read_chunk, b""))
        else:
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size)
            if len(body) < size:  # The client was killed after its headers.
                raise ConnectionAbortedError(f"{len(body)} of {size} bytes")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = HttpRequest(self.command, self.path, headers, body, time.time())
        self.server.owner.record(request)
        return request

    def _read_chunk(self) -> bytes:
        size = int(self.rfile.readline().split(b";")[0], 16)
        chunk = self.rfile.read(size)
        self.rfile.readline()
        return chunk

    def _send(self, reply: HttpReply) -> None:
        if isinstance(reply.body, bytes):
            self._send_head(reply, {"Content-Length": str(len(reply.body))})
            self.wfile.write(reply.body)
            return
        self._send_head(reply, {"Transfer-Encoding": "chunked"})
        for piece in reply.body:
            self._write_chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def _send_half(self, reply: HttpReply) -> None:
        self.close_connection = True
        if isinstance(reply.body, bytes):
            self._send_head(reply, {"Content-Length": str(len(reply.body))})
            self.wfile.write(reply.body[: len(reply.body) // 2])
            return
        pieces = list(reply.body)
        self._send_head(reply, {"Transfer-Encoding": "chunked"})
        for piece in pieces[: len(pieces) // 2]:
            self._write_chunk(piece)

    def _send_head(self, reply: HttpReply, framing: Mapping[str, str]) -> None:
        self.send_response(reply.status)
        for name, value in {**reply.headers, **framing}.items():
            self.send_header(name, value)
        self.end_headers()

    def _write_chunk(self, piece: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def _say_nothing(self, fault: Hang | Reset, request: HttpRequest) -> None:
        owner = self.server.owner
        self.close_connection = True
        if fault.processed:
            owner.reply_to(request)
        if isinstance(fault, Hang):
            owner.closing.wait(fault.seconds)
            return
        # Lingering for zero seconds makes close() send RST. The descriptor is closed right here,
        # because socketserver would send FIN before, and the client would see an ordinary end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
