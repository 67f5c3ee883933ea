# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Malformed answers and settings lose no span, and messages do not repeat them."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._export.contract import Rejected, Retry, Sent
from mlflow_bridge._export.mapping.trace_details import TraceDetails
from mlflow_bridge._export.server.client import TrackingServer
from mlflow_bridge._spans.annotation import Annotation
from tests.support.fake_delivery import PATIENCE
from tests.support.fake_tracking_server import (
    JSON,
    PROTOBUF,
    FakeTrackingServer,
    spans_in,
)
from tests.support.faults import Status
from tests.support.loopback import HttpReply
from tests.unit.bridge.export.server.test_server_destination import batch_of, destination_at

SECRET = "s3cr3t"


@pytest.fixture
def server() -> Iterator[FakeTrackingServer]:
    fake = FakeTrackingServer()
    with fake.http:
        yield fake


@pytest.mark.parametrize("token", [f"{SECRET}\n", f" {SECRET}\r\n"])
def test_a_secret_with_the_end_of_a_line_is_used_without_it(
    server: FakeTrackingServer, token: str
) -> None:
    settings = {"tracking_token": token, "headers": {"X-Key": token}, "workspace": "team\n"}
    assert destination_at(server, **settings).send(batch_of()) == Sent(3)
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {SECRET}"
        assert request.headers["x-key"] == SECRET
        assert request.headers["x-mlflow-workspace"] == "team"


def test_a_password_keeps_all_but_the_end_of_the_line() -> None:
    config = MLflowDSPyConfig.model_validate(
        {"tracking_username": "me\n", "tracking_password": " pass word \r\n"}
    )
    assert config.tracking_username == "me"
    assert config.tracking_password is not None
    assert config.tracking_password.get_secret_value() == " pass word "


@pytest.mark.parametrize(
    ("name", "value", "variable"),
    [
        ("tracking_token", f"{SECRET}\nmore", "MLFLOW_TRACKING_TOKEN"),
        ("tracking_token", f"“{SECRET}”", "MLFLOW_TRACKING_TOKEN"),
        ("headers", {"X-Key": f"{SECRET}\nmore"}, "MLFLOW_DSPY_HEADERS"),
        ("headers", {"X-Key": f"“{SECRET}”"}, "MLFLOW_DSPY_HEADERS"),
        ("headers", {"X Key": SECRET}, "MLFLOW_DSPY_HEADERS"),
        ("workspace", "東京", "MLFLOW_WORKSPACE"),
    ],
)
def test_what_no_header_can_hold_is_named_and_not_shown(
    name: str, value: Any, variable: str
) -> None:
    with pytest.raises(ConfigurationError, match=variable) as raised:
        MLflowDSPyConfig(**{name: value})
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("value", [f"{SECRET}\n", f"“{SECRET}”"])
def test_a_header_that_cannot_be_sent_is_for_somebody_to_put_right(
    server: FakeTrackingServer, value: str
) -> None:
    # Such as that of an authentication plugin.
    tracking = TrackingServer(MLflowDSPyConfig(tracking_uri=server.http.url))
    for headers in ({"X-Key": value}, {"Authorization": f"Bearer {value}"}):
        outcome = tracking.request("GET", "/health", headers=headers)
        assert isinstance(outcome, Retry)
        assert outcome.lasting
        assert not outcome.about_spans
        assert SECRET not in outcome.reason


@pytest.mark.parametrize("run_id", ["r1\n", "東京"])
def test_a_run_that_cannot_exist_costs_no_trace(
    server: FakeTrackingServer, run_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert destination_at(server).send(batch_of(run_id=run_id)) == Sent(3)
    (request,) = server.trace_requests
    assert "x-mlflow-run-id" not in request.headers
    assert repr(run_id) in caplog.text


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        ("nan", None),
        ("inf", None),
        ("-5", 0.0),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999 00:00:00 GMT", None),
        (format_datetime(datetime(2001, 1, 1, tzinfo=timezone.utc)), 0.0),
    ],
)
def test_a_wish_to_wait_that_makes_no_sense_is_none(
    server: FakeTrackingServer, asked: str, granted: float | None
) -> None:
    destination = destination_at(server)
    assert destination.warm_up() is None
    server.http.fail_with(Status(503, retry_after=asked))
    outcome = destination.send(batch_of())
    assert isinstance(outcome, Retry)
    assert outcome.after == granted
    assert destination.send(batch_of()) == Sent(3)


@pytest.mark.parametrize(
    "reply",
    [
        HttpReply(200, JSON, b'{"error": "please log in"}'),
        HttpReply(200, JSON, b'{"partialSuccess": [1]}'),
        HttpReply(200, JSON, b'{"partialSuccess": {"rejectedSpans": "many"}}'),
        HttpReply(200, JSON, b'["ok"]'),
        HttpReply(200, JSON, b"\xff"),
        HttpReply(200, PROTOBUF, b"<html>"),
    ],
)
def test_a_success_that_is_no_answer_of_otlp_is_not_believed(
    server: FakeTrackingServer, reply: HttpReply
) -> None:
    server.traces_reply = reply
    destination = destination_at(server)
    outcome = destination.send(batch_of())
    assert isinstance(outcome, Retry)
    assert "damaged" in outcome.reason
    server.traces_reply = HttpReply(200, JSON, b"{}")
    assert destination.send(batch_of()) == Sent(3)
    assert spans_in(server.trace_requests[-1]) == ["span 0", "span 1", "span 2"]


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for(server: FakeTrackingServer) -> None:
    def slowly() -> Iterator[bytes]:
        for _ in range(100):
            time.sleep(0.05)
            yield b" "
        yield b"{}"

    destination = destination_at(server, request_timeout_seconds=1.0)
    assert destination.warm_up() is None
    server.traces_reply = HttpReply(200, JSON, slowly())
    outcome = destination.send(batch_of())
    assert isinstance(outcome, Retry)
    assert "did not answer in time" in outcome.reason
    server.traces_reply = HttpReply(200, JSON, b"{}")
    assert destination.send(batch_of()) == Sent(3)


def test_headers_that_come_byte_by_byte_are_not_waited_for() -> None:
    answering = threading.Event()

    def drip(listener: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                answering.set()
                for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 4000:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,), daemon=True)
        dripping.start()
        port = listener.getsockname()[1]
        config = MLflowDSPyConfig(
            tracking_uri=f"http://127.0.0.1:{port}", request_timeout_seconds=1.0
        )
        outcome = TrackingServer(config).request("GET", "/")
    assert answering.is_set()
    assert isinstance(outcome, Retry)
    assert "did not answer in time" in outcome.reason
    dripping.join(PATIENCE)


def test_an_answer_without_an_end_is_not_kept(server: FakeTrackingServer) -> None:
    destination = destination_at(server)
    assert destination.warm_up() is None
    server.traces_reply = HttpReply(200, JSON, (b"x" * 65_536 for _ in range(100_000)))
    outcome = destination.send(batch_of())
    assert isinstance(outcome, Retry)
    assert "damaged" in outcome.reason


def gateway(server: FakeTrackingServer, status: int) -> None:
    """Let spans and experiments pass only."""
    refusal = HttpReply(status, {"Content-Type": "text/html"}, b"<html>closed</html>")
    server.refuse = lambda request: refusal if "/mlflow/traces" in request.path else None


DETAILS = TraceDetails({"release": "7"})


@pytest.mark.parametrize("status", [401, 403, 404, 405, 501])
def test_a_server_without_metadata_takes_the_spans(
    server: FakeTrackingServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    gateway(server, status)
    batch = batch_of()
    described = [replace(span, details=DETAILS) for span in batch.spans]
    destination = destination_at(server)
    assert destination.send(replace(batch, spans=described)) == Sent(3)
    assert destination.send(replace(batch, spans=described)) == Sent(3)
    assert caplog.text.count("Traces are stored, but without their metadata") == 1
    assert f"HTTP {status}" in caplog.text


def test_spans_are_sent_again_with_metadata_after_an_outage(server: FakeTrackingServer) -> None:
    gateway(server, 503)
    batch = batch_of()
    described = [replace(span, details=DETAILS) for span in batch.spans]
    destination = destination_at(server)
    assert isinstance(destination.send(replace(batch, spans=described)), Retry)
    server.refuse = lambda request: None
    assert destination.send(replace(batch, spans=described)) == Sent(3)
    [info, *_] = server.described.values()
    assert (info["trace_metadata"], info["state"], info["tags"]) == ({"release": "7"}, "OK", {})


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_assessments_does_not_hold_up_spans(
    server: FakeTrackingServer, status: int
) -> None:
    gateway(server, status)
    outcome = destination_at(server).annotate(Annotation("tr-1", tag=("key", "value")))
    assert outcome == Rejected(f"the tracking server takes none: HTTP {status}")


@pytest.mark.parametrize("status", [401, 403, 503])
def test_an_assessment_waits_for_the_server(server: FakeTrackingServer, status: int) -> None:
    gateway(server, status)
    destination = destination_at(server)
    assert isinstance(destination.annotate(Annotation("tr-1", assessment={"a": 1})), Retry)
    server.refuse = lambda request: None
    assert destination.annotate(Annotation("tr-1", assessment={"a": 1})) == Sent(1)
    [request] = [it for it in server.requests if it.path.endswith("/assessments")][-1:]
    assert json.loads(request.body) == {"assessment": {"a": 1}}
