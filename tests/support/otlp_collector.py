# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A stub OTLP collector on loopback: keeps what it gets, fails when told to.

Traces are decoded; metrics and logs are accepted and counted. HTTP takes binary protobuf, plain
or compressed. gRPC is started, and grpcio imported, only by ``StubCollector(grpc=True)``.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

from tests.support.faults import Fault
from tests.support.loopback import HttpReply, HttpRequest, LoopbackServer
from tests.support.otlp_decode import CollectedSpan, OTLPRequest, collected_spans

if TYPE_CHECKING:
    from tests.support.otlp_grpc import GrpcFault, GrpcReceiver

_PROTOBUF = "application/x-protobuf"
_MESSAGES: dict[str, Callable[[], Message]] = {
    "traces": traces.ExportTraceServiceRequest,
    "metrics": metrics.ExportMetricsServiceRequest,
    "logs": logs.ExportLogsServiceRequest,
}


class StubCollector:
    """Receives OTLP; use it as a context manager. All methods may be called from any thread."""

    def __init__(self, *, grpc: bool = False) -> None:
        self._changed = threading.Condition()
        self._spans: list[CollectedSpan] = []
        self._requests: list[OTLPRequest] = []
        self._partial: deque[tuple[int, str]] = deque()
        self._http = LoopbackServer(self._answer, received=self._record_http)
        self._grpc = self._make_grpc_receiver() if grpc else None

    def _make_grpc_receiver(self) -> GrpcReceiver:
        from tests.support.otlp_grpc import GrpcReceiver

        return GrpcReceiver(accept=self.accept_traces, received=self.record)

    def __enter__(self) -> StubCollector:
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
            self._http.raise_errors()

    def start(self) -> None:
        """Listen; after ``stop()`` on the same ports again."""
        self._http.start()
        if self._grpc is not None:
            self._grpc.start()

    def stop(self) -> None:
        """Stop listening, as if the collector went down. What it received stays readable."""
        self._http.stop()
        if self._grpc is not None:
            self._grpc.stop()

    @property
    def http_endpoint(self) -> str:
        """The base URL, fit for ``OTEL_EXPORTER_OTLP_ENDPOINT`` with protocol http/protobuf."""
        return self._http.url

    @property
    def grpc_endpoint(self) -> str:
        """The URL fit for ``OTEL_EXPORTER_OTLP_ENDPOINT`` with protocol grpc."""
        return self._grpc_receiver().endpoint

    def _grpc_receiver(self) -> GrpcReceiver:
        if self._grpc is None:
            raise RuntimeError("gRPC was not asked for: StubCollector(grpc=True)")
        return self._grpc

    def fail_http(self, *faults: Fault) -> None:
        """Queue faults, one for each of the next HTTP requests."""
        self._http.fail_with(*faults)

    def fail_grpc(self, *faults: GrpcFault) -> None:
        """Queue faults, one for each of the next gRPC requests."""
        self._grpc_receiver().fail_with(*faults)

    def reject_part(self, spans: int, message: str = "injected partial success") -> None:
        """Let the next trace request that meets no fault lose its last ``spans`` spans.

        The client is told by OTLP's ``partial_success``, with status 200 or OK.
        """
        with self._changed:
            self._partial.append((spans, message))

    def spans(self) -> list[CollectedSpan]:
        """A copy of all spans accepted so far, in the order of arrival."""
        with self._changed:
            return list(self._spans)

    @property
    def requests(self) -> list[OTLPRequest]:
        """A copy of all requests so far, those that met a fault included."""
        with self._changed:
            return list(self._requests)

    def wait_for_spans(self, count: int, timeout: float = 5.0) -> list[CollectedSpan]:
        """All spans, as soon as there are at least ``count``.

        Raises:
            TimeoutError: after ``timeout`` seconds, naming the spans that did come.
        """
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self._spans) >= count, timeout)
            spans = list(self._spans)
        if not arrived:
            names = ", ".join(span.name for span in spans) or "none"
            raise TimeoutError(f"{len(spans)} of {count} spans after {timeout:g} s: {names}")
        return spans

    def reset(self) -> None:
        """Forget spans, requests and queued faults."""
        self._http.clear_faults()
        if self._grpc is not None:
            self._grpc.clear_faults()
        with self._changed:
            self._spans.clear()
            self._requests.clear()
            self._partial.clear()

    def record(self, request: OTLPRequest) -> None:
        with self._changed:
            self._requests.append(request)

    def accept_traces(
        self, request: traces.ExportTraceServiceRequest, headers: Mapping[str, str]
    ) -> traces.ExportTraceServiceResponse:
        """Keep the spans, but for those that ``reject_part`` takes away."""
        spans = list(collected_spans(request, headers))
        response = traces.ExportTraceServiceResponse()
        with self._changed:
            if self._partial:
                rejected, message = self._partial.popleft()
                spans = spans[: max(0, len(spans) - rejected)]
                response.partial_success.rejected_spans = rejected
                response.partial_success.error_message = message
            self._spans.extend(spans)
            self._changed.notify_all()
        return response

    def _record_http(self, request: HttpRequest) -> None:
        signal = _signal(request)
        self.record(OTLPRequest(signal, "http", request.headers, len(request.body), request.time))

    def _answer(self, request: HttpRequest) -> HttpReply:
        signal = _signal(request)
        if signal not in _MESSAGES or request.method != "POST":
            return _text(404, f"nothing at {request.path}")
        if request.headers.get("content-type") != _PROTOBUF:
            return _text(415, f"only {_PROTOBUF} is supported")
        message = _MESSAGES[signal]()
        message.ParseFromString(_uncompressed(request))
        if not isinstance(message, traces.ExportTraceServiceRequest):
            return HttpReply(headers={"Content-Type": _PROTOBUF})
        response = self.accept_traces(message, request.headers)
        return HttpReply(headers={"Content-Type": _PROTOBUF}, body=response.SerializeToString())


def _signal(request: HttpRequest) -> str:
    return request.path.removeprefix("/v1/")


def _text(status: int, message: str) -> HttpReply:
    return HttpReply(status, {"Content-Type": "text/plain"}, message.encode())


def _uncompressed(request: HttpRequest) -> bytes:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding == "gzip":
        return gzip.decompress(request.body)
    if encoding == "deflate":
        return zlib.decompress(request.body)
    return request.body
