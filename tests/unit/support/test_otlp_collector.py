# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import http.client
import time
from collections.abc import Sequence

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import Link, SpanKind, StatusCode

from tests.support.faults import HalfBody, Reset, Status
from tests.support.http_client import post, post_with_headers
from tests.support.memory import span_memory
from tests.support.otlp_collector import StubCollector

_PROTOBUF = {"Content-Type": "application/x-protobuf"}


def _family() -> Sequence[ReadableSpan]:
    """A child that failed and its parent, in the order in which they ended."""
    provider, exporter = span_memory()
    tracer = provider.get_tracer("the.scope", "1.2")
    with tracer.start_as_current_span("other") as other:
        pass
    with (
        pytest.raises(ValueError, match="no"),
        tracer.start_as_current_span("parent", attributes={"list": [1, 2], "text": "ä"}),
        tracer.start_as_current_span(
            "child", kind=SpanKind.CLIENT, links=[Link(other.get_span_context(), {"why": "test"})]
        ) as child,
    ):
        child.add_event("happened", {"share": 0.5})
        raise ValueError("no")
    return [span for span in exporter.get_finished_spans() if span.name != "other"]


def _body(spans: Sequence[ReadableSpan]) -> bytes:
    return encode_spans(spans).SerializeToString()


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_spans_over_http(compression: Compression) -> None:
    with StubCollector() as collector:
        exporter = OTLPSpanExporter(
            f"{collector.http_endpoint}/v1/traces", headers={"X-Key": "k"}, compression=compression
        )
        sent = _family()
        assert exporter.export(sent) is SpanExportResult.SUCCESS
        child, parent = collector.wait_for_spans(2)
    assert [span.name for span in (child, parent)] == ["child", "parent"]
    context = sent[0].get_span_context()
    assert context is not None
    assert child.span_id == f"{context.span_id:016x}"
    assert child.trace_id == f"{context.trace_id:032x}"
    assert (child.parent_id, parent.parent_id) == (parent.span_id, None)
    assert (child.kind, parent.kind) == ("CLIENT", "INTERNAL")
    assert (child.start_time_ns, child.end_time_ns) == (sent[0].start_time, sent[0].end_time)
    assert parent.attributes == {"list": [1, 2], "text": "ä"}
    assert (child.status_code, child.status_message) == (StatusCode.ERROR.name, "ValueError: no")
    assert [event.name for event in child.events] == ["happened", "exception"]
    assert child.events[0].attributes == {"share": 0.5}
    assert child.links[0].attributes == {"why": "test"}
    assert (child.scope_name, child.scope_version) == ("the.scope", "1.2")
    assert child.resource_attributes == {"service.name": "test"}
    assert child.request_headers["x-key"] == "k"
    assert [(request.signal, request.protocol) for request in collector.requests] == [
        ("traces", "http")
    ]


def test_what_is_not_otlp_is_refused() -> None:
    with StubCollector() as collector:
        assert post(f"{collector.http_endpoint}/v1/other", b"", _PROTOBUF)[0] == 404
        assert post(f"{collector.http_endpoint}/v1/traces", {})[0] == 415


def test_metrics_are_accepted_and_counted() -> None:
    body = ExportMetricsServiceRequest().SerializeToString()
    with StubCollector() as collector:
        assert post(f"{collector.http_endpoint}/v1/metrics", body, _PROTOBUF) == (200, b"")
        assert collector.requests[0].signal == "metrics"


def test_faults_then_partial_success_then_success() -> None:
    body = _body(_family())
    with StubCollector() as collector:
        url = f"{collector.http_endpoint}/v1/traces"
        collector.fail_http(Status(503, retry_after=1), Status(302, headers={"Location": url}))
        collector.reject_part(1, "too odd")
        status, headers, _ = post_with_headers(url, body, _PROTOBUF)
        assert (status, headers["Retry-After"]) == (503, "1")
        assert post(url, body, _PROTOBUF)[0] == 302
        assert collector.spans() == []
        status, answer = post(url, body, _PROTOBUF)
        partial = ExportTraceServiceResponse.FromString(answer).partial_success
        assert (status, partial.rejected_spans, partial.error_message) == (200, 1, "too odd")
        assert [span.name for span in collector.spans()] == ["child"]
        assert post(url, body, _PROTOBUF) == (200, b"")
        assert len(collector.spans()) == 3
        assert len(collector.requests) == 4


def test_half_an_answer_means_that_the_spans_are_kept() -> None:
    with StubCollector() as collector:
        collector.reject_part(1)
        collector.fail_http(HalfBody(), Reset())
        url = f"{collector.http_endpoint}/v1/traces"
        with pytest.raises(http.client.IncompleteRead):
            post(url, _body(_family()), _PROTOBUF)
        with pytest.raises(ConnectionResetError):
            post(url, _body(_family()), _PROTOBUF)
        assert [span.name for span in collector.spans()] == ["child"]


def test_waiting_in_vain_says_what_came() -> None:
    with StubCollector() as collector:
        body = gzip.compress(_body(_family()))
        headers = {**_PROTOBUF, "Content-Encoding": "gzip"}
        post(f"{collector.http_endpoint}/v1/traces", body, headers)
        with pytest.raises(TimeoutError, match=r"2 of 3 spans after 0\.01 s: child, parent"):
            collector.wait_for_spans(3, timeout=0.01)
        collector.reset()
        assert (collector.spans(), collector.requests) == ([], [])


def test_grpc_has_to_be_asked_for() -> None:
    with StubCollector() as collector, pytest.raises(RuntimeError, match="grpc=True"):
        _ = collector.grpc_endpoint


def test_spans_and_faults_over_grpc() -> None:
    grpc = pytest.importorskip("grpc")
    trace_service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc"
    )
    from tests.support.otlp_grpc import GrpcFault

    request = encode_spans(_family())
    with StubCollector(grpc=True) as collector:
        with grpc.insecure_channel(collector.grpc_endpoint.removeprefix("http://")) as channel:
            export = trace_service.TraceServiceStub(channel).Export
            collector.fail_grpc(
                GrpcFault("UNAVAILABLE", "later"), GrpcFault("INTERNAL", processed=True)
            )
            with pytest.raises(grpc.RpcError) as caught:
                export(request, timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert collector.spans() == []
            with pytest.raises(grpc.RpcError):
                export(request, timeout=5)
            collector.reject_part(1)
            answer = export(request, timeout=5, metadata=[("x-key", "k")])
            assert answer.partial_success.rejected_spans == 1
        spans = collector.wait_for_spans(3)
        assert [span.name for span in spans] == ["child", "parent", "child"]
        assert spans[-1].request_headers["x-key"] == "k"
        assert [request.protocol for request in collector.requests] == ["grpc"] * 3


def test_a_mistyped_grpc_code_is_refused_at_once() -> None:
    pytest.importorskip("grpc")
    from tests.support.otlp_grpc import GrpcFault

    with StubCollector(grpc=True) as collector, pytest.raises(KeyError):
        collector.fail_grpc(GrpcFault("NOT_A_CODE"))


def test_stop_does_not_wait_for_a_hanging_grpc_call() -> None:
    grpc = pytest.importorskip("grpc")
    trace_service = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc"
    )
    from tests.support.otlp_grpc import GrpcFault

    with StubCollector(grpc=True) as collector:
        collector.fail_grpc(GrpcFault("UNAVAILABLE", hang=600))
        channel = grpc.insecure_channel(collector.grpc_endpoint.removeprefix("http://"))
        call = trace_service.TraceServiceStub(channel).Export.future(encode_spans(_family()))
        while not collector.requests:
            time.sleep(0.01)
    with pytest.raises(grpc.RpcError):
        call.result(timeout=5)
    channel.close()
