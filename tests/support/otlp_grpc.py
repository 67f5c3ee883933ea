# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The gRPC side of the stub collector; importing this imports grpcio."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

from tests.support.otlp_decode import OTLPRequest

AcceptTraces = Callable[
    [traces.ExportTraceServiceRequest, Mapping[str, str]], traces.ExportTraceServiceResponse
]


@dataclass(frozen=True)
class GrpcFault:
    """Answer a gRPC request with a status instead of doing the work."""

    code: str
    """A name from ``grpc.StatusCode``, such as ``UNAVAILABLE``."""
    details: str = "injected"
    hang: float = 0.0
    """Seconds before the status is sent."""
    processed: bool = False
    """Whether the work is done all the same, so that a retry delivers twice."""


class GrpcReceiver:
    """Serves the three OTLP services on 127.0.0.1 and a free port."""

    def __init__(self, *, accept: AcceptTraces, received: Callable[[OTLPRequest], None]) -> None:
        self._accept = accept
        self._received = received
        self._faults: deque[GrpcFault] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._port = 0
        self._server: grpc.Server | None = None

    @property
    def endpoint(self) -> str:
        if not self._port:
            raise RuntimeError("the server was never started")
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._closing.clear()
        server = grpc.server(
            ThreadPoolExecutor(max_workers=16, thread_name_prefix="otlp-grpc"),
            # With port sharing on, two test processes could end up on the same port.
            options=[("grpc.so_reuseport", 0)],
        )
        traces_grpc.add_TraceServiceServicer_to_server(_Traces(self), server)
        metrics_grpc.add_MetricsServiceServicer_to_server(_Metrics(self), server)
        logs_grpc.add_LogsServiceServicer_to_server(_Logs(self), server)
        self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        self._closing.set()
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def fail_with(self, *faults: GrpcFault) -> None:
        for fault in faults:
            # A mistyped name should fail in the test, not on the server's thread.
            grpc.StatusCode[fault.code]
        with self._lock:
            self._faults.extend(faults)

    def clear_faults(self) -> None:
        with self._lock:
            self._faults.clear()

    def accept(
        self, request: traces.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> traces.ExportTraceServiceResponse:
        return self._accept(request, _metadata(context))

    def receive(
        self, signal: str, request: Message, context: grpc.ServicerContext
    ) -> GrpcFault | None:
        """Record one request; the fault that it is to meet, if one is queued."""
        size = request.ByteSize()
        self._received(OTLPRequest(signal, "grpc", _metadata(context), size, time.time()))
        with self._lock:
            return self._faults.popleft() if self._faults else None

    def fail(self, fault: GrpcFault, context: grpc.ServicerContext) -> None:
        self._closing.wait(fault.hang)
        context.abort(grpc.StatusCode[fault.code], fault.details)


def _metadata(context: grpc.ServicerContext) -> dict[str, str]:
    return {str(key): str(value) for key, value in context.invocation_metadata()}


class _Traces(traces_grpc.TraceServiceServicer):
    def __init__(self, receiver: GrpcReceiver) -> None:
        self._receiver = receiver

    def Export(
        self, request: traces.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> traces.ExportTraceServiceResponse:
        fault = self._receiver.receive("traces", request, context)
        if fault is None:
            return self._receiver.accept(request, context)
        if fault.processed:
            self._receiver.accept(request, context)
        self._receiver.fail(fault, context)
        raise AssertionError("abort() raises")


class _Metrics(metrics_grpc.MetricsServiceServicer):
    def __init__(self, receiver: GrpcReceiver) -> None:
        self._receiver = receiver

    def Export(
        self, request: metrics.ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> metrics.ExportMetricsServiceResponse:
        fault = self._receiver.receive("metrics", request, context)
        if fault is not None:
            self._receiver.fail(fault, context)
        return metrics.ExportMetricsServiceResponse()


class _Logs(logs_grpc.LogsServiceServicer):
    def __init__(self, receiver: GrpcReceiver) -> None:
        self._receiver = receiver

    def Export(
        self, request: logs.ExportLogsServiceRequest, context: grpc.ServicerContext
    ) -> logs.ExportLogsServiceResponse:
        fault = self._receiver.receive("logs", request, context)
        if fault is not None:
            self._receiver.fail(fault, context)
        return logs.ExportLogsServiceResponse()
