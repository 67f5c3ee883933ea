# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What each failure of a tracking server costs: spans in, spans stored. Over real HTTP.

The whole way of a span is in use: provider, processor, spool, exporter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig
from mlflow_bridge._delivery.status import DeliveryStatus
from tests.support.fake_tracking_server import (
    JSON,
    PROTOBUF,
    FakeTrackingServer,
    spans_in,
)
from tests.support.faults import Fault, HalfBody, Hang, Reset, Status
from tests.support.loopback import HttpReply, HttpRequest

pytestmark = pytest.mark.integration

SPANS = 512
PATIENCE = 60.0


@pytest.fixture
def server() -> Iterator[FakeTrackingServer]:
    fake = FakeTrackingServer()
    fake.add_experiment("mine")
    with fake.http:
        yield fake


class Program:
    """One life of a program: it ends spans, and delivers them."""

    def __init__(self, server: FakeTrackingServer, spool: Path, **settings: Any) -> None:
        config = MLflowDSPyConfig.model_validate(
            {
                "tracking_uri": server.http.url,
                "experiment_name": "mine",
                "spool_directory": spool,
                "request_timeout_seconds": 2.0,
                "exit_timeout_seconds": PATIENCE,
                "schedule_delay_seconds": 0.1,
                **settings,
            }
        )
        self.processor = MLflowBatchSpanProcessor(config)
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(self.processor)
        self.tracer = self._provider.get_tracer("program")

    def run(self, spans: int = SPANS, names: Callable[[int], str] = "span {}".format) -> set[str]:
        """End that many spans and return their names."""
        for index in range(spans):
            self.tracer.start_span(names(index)).end()
        return {names(index) for index in range(spans)}

    def take_over(self) -> None:
        """Do what `autolog` does at its start, whether spans come or not."""
        self.processor.warm_up()

    def status(self) -> DeliveryStatus:
        return self.processor.status()

    def wait_for(self, condition: Callable[[DeliveryStatus], bool]) -> DeliveryStatus:
        deadline = time.monotonic() + PATIENCE
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, status
            time.sleep(0.02)
        return status

    def end(self) -> DeliveryStatus:
        self._provider.shutdown()
        return self.status()


@pytest.mark.parametrize(
    "faults",
    [
        [Status(500)],
        [Status(500)] * 4,
        [Status(502)],
        [Status(503, retry_after=1)],
        [Status(429, retry_after=1)],
        [Status(408)],
        [Status(422, body="Failed to log OpenTelemetry spans")] * 2,
        [Status(400)] * 2,
        [Hang(60)],
        [Hang(60, processed=True)],
        [HalfBody()],
        [Reset()],
        [Reset(processed=True)] * 2,
        [Status(200, body="\x05", headers=PROTOBUF)],
        [Status(500), Reset(), HalfBody(), Status(429), Hang(60), Status(503)],
    ],
    ids=lambda faults: " ".join(map(str, faults)),
)
def test_failure_that_passes_loses_nothing(
    server: FakeTrackingServer, tmp_path: Path, faults: list[Fault]
) -> None:
    # A HalfBody needs an answer of which there can be half.
    server.traces_reply = HttpReply(200, JSON, b'{"partialSuccess": {}}')
    program = Program(server, tmp_path)
    assert program.processor.force_flush()
    server.http.fail_with(*faults)
    names = program.run()
    status = program.end()
    assert set(server.stored) == names
    assert (status.stored + status.recovered, status.missing) == (SPANS, 0)
    assert len(server.trace_requests) > 1


def test_too_large_a_request_is_divided(server: FakeTrackingServer, tmp_path: Path) -> None:
    limit = 16_384

    def small_only(request: HttpRequest) -> HttpReply | None:
        return HttpReply(413) if len(request.body) > limit else None

    server.refuse = small_only
    program = Program(server, tmp_path, compression="none")
    names = program.run()
    program.tracer.start_span("huge", attributes={"text": "x" * 1_000_000}).end()
    status = program.end()
    assert set(server.stored) == {*names, "huge"}
    assert status.missing == 0


@pytest.mark.parametrize("as_json", [False, True])
def test_partial_success_is_counted_and_said(
    server: FakeTrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, as_json: bool
) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    server.traces_reply = HttpReply(
        200, PROTOBUF, ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    )
    if as_json:
        body = b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "too old"}}'
        server.traces_reply = HttpReply(200, JSON, body)
    program = Program(server, tmp_path, schedule_delay_seconds=60)
    program.run(10)
    status = program.end()
    assert (status.stored, status.rejected) == (8, 2)
    # OTLP forbids to send a partly accepted request again.
    assert len(server.trace_requests) == 1
    assert "too old" in caplog.text


def unauthorized(request: HttpRequest) -> HttpReply | None:
    right = request.headers.get("authorization") == "Bearer right"
    return None if right else HttpReply(401, {"WWW-Authenticate": "Bearer"})


def forbidden(request: HttpRequest) -> HttpReply | None:
    answer = unauthorized(request)
    return answer and replace(answer, status=403)


def to_the_login_page(request: HttpRequest) -> HttpReply | None:
    if request.path.startswith("/login"):
        return HttpReply(200, {"Content-Type": "text/html"}, b"<html>log in</html>")
    answer = unauthorized(request)
    return answer and HttpReply(302, {"Location": "/login"})


def login_page(request: HttpRequest) -> HttpReply | None:
    answer = unauthorized(request)
    return answer and HttpReply(200, {"Content-Type": "text/html"}, b"<html>log in</html>")


def not_found(request: HttpRequest) -> HttpReply | None:
    answer = unauthorized(request)
    return answer and HttpReply(404, {"Content-Type": "text/html"}, b"<html>not here</html>")


def not_implemented(request: HttpRequest) -> HttpReply | None:
    answer = unauthorized(request)
    return answer and replace(answer, status=501)


@pytest.mark.parametrize(
    ("refusal", "named"),
    [
        (unauthorized, "MLFLOW_TRACKING_TOKEN"),
        (forbidden, "MLFLOW_TRACKING_TOKEN"),
        (to_the_login_page, "MLFLOW_TRACKING_URI"),
        (login_page, "MLFLOW_TRACKING_URI"),
        (not_found, "MLFLOW_TRACKING_URI"),
        (not_implemented, "MLFLOW_TRACKING_URI"),
    ],
)
def test_what_somebody_has_to_put_right_keeps_the_spans_until_then(
    server: FakeTrackingServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    refusal: Callable[[HttpRequest], HttpReply | None],
    named: str,
) -> None:
    server.refuse = refusal
    wrong = Program(server, tmp_path, tracking_token="wrong")
    names = wrong.run()
    wrong.wait_for(lambda status: status.kept == SPANS)
    warnings = [record.getMessage() for record in caplog.records if "accept" in record.message]
    assert len(warnings) == 1
    assert named in warnings[0]
    assert str(tmp_path) in warnings[0]
    assert wrong.end().kept == SPANS
    assert (server.stored, [r.path for r in server.requests if "/login" in r.path]) == ({}, [])
    right = Program(server, tmp_path, tracking_token="right")
    right.take_over()
    right.wait_for(lambda status: status.redelivered == SPANS)
    right.end()
    assert set(server.stored) == names


def test_wrong_credentials_do_not_delay_the_end(server: FakeTrackingServer, tmp_path: Path) -> None:
    server.refuse = unauthorized
    program = Program(server, tmp_path, exit_timeout_seconds=600.0)
    program.run(20)
    began = time.monotonic()
    assert program.end().kept == 20
    assert time.monotonic() - began < 300


def test_credentials_that_are_put_right_while_the_program_runs(
    server: FakeTrackingServer, tmp_path: Path
) -> None:
    server.refuse = unauthorized
    program = Program(server, tmp_path, tracking_token="right too late")
    names = program.run()
    program.wait_for(lambda status: status.kept == SPANS)
    server.refuse = lambda request: None
    program.wait_for(lambda status: status.recovered == SPANS)
    names |= program.run(3, "later {}".format)
    program.end()
    assert set(server.stored) == names


def test_experiment_that_is_deleted_is_not_written_to(
    server: FakeTrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.experiments["mine"]["lifecycle_stage"] = "deleted"
    program = Program(server, tmp_path)
    names = program.run()
    assert program.end().kept == SPANS
    assert "the experiment is deleted (MLFLOW_EXPERIMENT_NAME" in caplog.text
    assert server.trace_requests == []
    server.experiments["mine"]["lifecycle_stage"] = "active"
    later = Program(server, tmp_path)
    later.take_over()
    later.wait_for(lambda status: status.redelivered == SPANS)
    later.end()
    assert set(server.stored) == names


def test_spans_in_the_spool_of_an_experiment_that_is_deleted_hold_up_no_others(
    server: FakeTrackingServer, tmp_path: Path
) -> None:
    """They are refused and counted as they would be without a spool; all others arrive."""
    server.add_experiment("gone")
    gone = str(server.experiments["gone"]["experiment_id"])
    server.refuse = unauthorized
    wrong = Program(server, tmp_path, tracking_token="wrong", traces="all")
    for index in range(SPANS):
        attributes = {"mlflow.experimentId": gone}
        wrong.tracer.start_span(f"gone {index}", attributes=attributes).end()
    wrong.wait_for(lambda status: status.kept == SPANS)
    names = wrong.run()
    assert wrong.end().kept == 2 * SPANS
    server.experiments["gone"]["lifecycle_stage"] = "deleted"
    right = Program(server, tmp_path, tracking_token="right")
    right.take_over()
    status = right.wait_for(lambda status: status.redelivered + status.spool_dropped == 2 * SPANS)
    right.end()
    assert set(server.stored) == names
    assert (status.redelivered, status.spool_dropped) == (SPANS, SPANS)


@pytest.mark.parametrize("status", [400, 422, 403, 500])
def test_span_that_the_server_never_takes_is_named_and_costs_no_other(
    server: FakeTrackingServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    def poisoned(request: HttpRequest) -> HttpReply | None:
        is_bad = request.path == "/v1/traces" and "poison" in spans_in(request)
        return HttpReply(status, {"Content-Type": "text/plain"}, b"no") if is_bad else None

    server.refuse = poisoned
    program = Program(server, tmp_path)
    # What a server stumbles over without a word is told apart by what it took before.
    before = program.run(3, "before {}".format)
    assert program.processor.force_flush()
    names = program.run(SPANS, lambda index: "poison" if index == 317 else f"span {index}")
    program.wait_for(lambda seen: seen.rejected + seen.spool_dropped == 1)
    done = program.end()
    assert set(server.stored) == (names | before) - {"poison"}
    assert done.stored + done.recovered == SPANS + 2
    assert f"HTTP {status}" in caplog.text
    assert "poison" in caplog.text
