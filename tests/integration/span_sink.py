# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A tracking server on loopback that counts spans the way MLflow stores them: once for each id."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.fake_tracking_server import FakeTrackingServer
from tests.support.loopback import HttpRequest, LoopbackServer

PATIENCE = 90.0
"""Seconds after which a test that waits for a process fails; no measure of anything."""


class SpanSink:
    """A context manager; ``http`` can be told to fail, to stop and to start again."""

    def __init__(self) -> None:
        self._server = FakeTrackingServer()

    @property
    def http(self) -> LoopbackServer:
        return self._server.http

    def __enter__(self) -> SpanSink:
        self.http.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.http.__exit__(exc_type, exc, traceback)

    def stored(self) -> Counter[str]:
        """Names of the spans that arrived, and how many different spans have that name."""
        arrived = {span for request in self._server.trace_requests for span in _spans(request)}
        return Counter(name for _, _, name in arrived)

    def arrivals(self) -> int:
        """How many spans arrived, those counted twice that were sent twice."""
        return sum(len(_spans(request)) for request in list(self._server.trace_requests))


def _spans(request: HttpRequest) -> list[tuple[bytes, bytes, str]]:
    body = request.body
    if request.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    message = ExportTraceServiceRequest.FromString(body)
    return [
        (span.trace_id, span.span_id, span.name)
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"waited without success for {what}"
        time.sleep(0.02)


def spooled(state: Path) -> int:
    """How many spans are in all spools below this directory for state."""
    files = state.glob("mlflow-bridge/spool/*/*.jsonl")
    return sum(file.read_bytes().count(b'"startTimeUnixNano":') for file in files)


def traces(*names: str) -> Counter[str]:
    """The spans of traces as the programs of these tests make them."""
    return Counter(f"{name}{part}" for name in names for part in ("", " step"))
