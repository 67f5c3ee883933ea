# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One time limit for a whole answer of a server, from its first byte to its last.

The time-out of requests limits each wait for bytes. A server or proxy that sends one byte after the
other, in the headers or in the body, would hold a request for ever.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import time
from typing import Any, Final

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection


class _LimitedReader(io.RawIOBase):
    """Bytes from a socket, until the time is over."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, until: float) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._until = until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer arrives too slowly")
        # urllib3 sets the time-out again before it uses the connection for another request.
        self._sock.settimeout(None if left == math.inf else left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _LimitedResponse(http.client.HTTPResponse):
    """A response whose bytes all have to arrive within the time-out of the socket."""

    def __init__(self, sock: socket.socket, *args: Any, **named: Any) -> None:
        super().__init__(sock, *args, **named)
        seconds = sock.gettimeout()
        until = math.inf if seconds is None else time.monotonic() + seconds
        self.fp.close()
        # Not buffered, so that one wait for bytes is one call.
        raw = sock.makefile("rb", buffering=0)
        self.fp = io.BufferedReader(_LimitedReader(raw, sock, until))


class _Connection(HTTPConnection):
    response_class = _LimitedResponse


class _SecureConnection(HTTPSConnection):
    response_class = _LimitedResponse


class _Pool(HTTPConnectionPool):
    # The annotations of urllib3 demand writable constants, which its own class does not have.
    ConnectionCls: Any = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls: Any = _SecureConnection


_POOLS: Final = {"http": _Pool, "https": _SecurePool}


class WholeAnswerAdapter(HTTPAdapter):
    """Adapter of requests whose read time-out is the limit of the whole answer.

    A proxy that speaks SOCKS has connections of its own, to which only the time-out of each wait
    applies.
    """

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, **named)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **named: Any) -> PoolManager:
        manager = super().proxy_manager_for(proxy, **named)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager
