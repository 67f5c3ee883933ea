# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Requests to a tracking server, and the meaning of its answers; over real HTTP."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from mlflow_bridge._export.experiments import Experiments
from mlflow_bridge._export.mapping.span import SpanMapper
from mlflow_bridge._export.server.client import TrackingServer
from mlflow_bridge._export.server.destination import ServerDestination, ServerExperiments
from tests.support.dspy_spans import Recorder, lm_attributes
from tests.support.fake_tracking_server import (
    API,
    JSON,
    PROTOBUF,
    FakeTrackingServer,
    json_reply,
    spans_in,
)
from tests.support.faults import Fault, HalfBody, Hang, Reset, Status
from tests.support.loopback import HttpReply


@pytest.fixture
def server() -> Iterator[FakeTrackingServer]:
    fake = FakeTrackingServer()
    with fake.http:
        yield fake


def destination_at(server: FakeTrackingServer, **settings: Any) -> ServerDestination:
    return ServerDestination(
        MLflowDSPyConfig.model_validate(
            {"tracking_uri": server.http.url, "experiment_name": "mine", **settings}
        )
    )


def batch_of(count: int = 3, run_id: str | None = None, experiment_id: str | None = None) -> Batch:
    mapper = SpanMapper(100_000)
    return Batch([mapper.map(span) for span in Recorder().many(count)], experiment_id, run_id)


def test_request(server: FakeTrackingServer) -> None:
    assert destination_at(server).send(batch_of(3, run_id="r1")) == Sent(3)
    (request,) = server.trace_requests
    assert request.headers["content-type"] == "application/x-protobuf"
    assert request.headers["x-mlflow-experiment-id"] == "1"
    assert request.headers["x-mlflow-run-id"] == "r1"
    assert request.headers["user-agent"].startswith("mlflow-bridge/")
    assert "authorization" not in request.headers
    assert spans_in(request) == ["span 0", "span 1", "span 2"]


def test_attributes_travel_as_mlflow_expects_them(server: FakeTrackingServer) -> None:
    span = SpanMapper(100_000).map(Recorder().one("lm", lm_attributes()))
    destination_at(server, compression="none").send(Batch([span]))
    message = ExportTraceServiceRequest.FromString(server.trace_requests[0].body)
    values = {
        pair.key: pair.value
        for pair in message.resource_spans[0].scope_spans[0].spans[0].attributes
    }
    assert values["mlflow.spanType"].string_value == "CHAT_MODEL"
    assert json.loads(values["mlflow.chat.tokenUsage"].string_value)["total_tokens"] == 120
    assert json.loads(values["mlflow.spanOutputs"].string_value) == ["[[ ## answer ## ]]\n東京"]


def test_large_request_is_compressed(server: FakeTrackingServer) -> None:
    destination = destination_at(server)
    destination.send(batch_of(1))
    destination.send(batch_of(100))
    destination_at(server, compression="none").send(batch_of(100))
    encodings = [request.headers.get("content-encoding") for request in server.trace_requests]
    assert encodings == [None, "gzip", None]
    assert len(spans_in(server.trace_requests[1])) == 100


def test_experiment_is_created_once(server: FakeTrackingServer) -> None:
    destination = destination_at(server)
    for _ in range(3):
        assert destination.send(batch_of()) == Sent(3)
    assert list(server.experiments) == ["mine"]
    assert [request.path.partition("?")[0] for request in server.requests] == [
        f"{API}/get-by-name",
        f"{API}/create",
        f"{API}/get-by-name",
        *["/v1/traces"] * 3,
    ]


def test_experiment_that_another_process_creates_at_the_same_time(
    server: FakeTrackingServer,
) -> None:
    server.add_experiment("mine")
    server.blind_look_ups = 1
    assert destination_at(server).send(batch_of()) == Sent(3)


def test_experiment_by_id(server: FakeTrackingServer) -> None:
    server.add_experiment("other")
    destination = destination_at(server, experiment_name=None, experiment_id="1")
    assert destination.send(batch_of()) == Sent(3)


def test_experiment_that_the_spans_name(server: FakeTrackingServer) -> None:
    for name in ("one", "two"):
        server.add_experiment(name)
    destination = destination_at(server)
    for _ in range(3):
        assert destination.send(batch_of(3, experiment_id="2")) == Sent(3)
    assert {request.headers["x-mlflow-experiment-id"] for request in server.trace_requests} == {"2"}
    assert len(server.requests) == 1 + 3


@pytest.mark.parametrize(("identifier", "problem"), [("1", "deleted"), ("42", "does not exist")])
def test_experiment_that_the_spans_name_and_that_is_gone(
    server: FakeTrackingServer, identifier: str, problem: str
) -> None:
    server.add_experiment("old", "deleted")
    outcome = destination_at(server).send(batch_of(3, experiment_id=identifier))
    assert isinstance(outcome, Rejected)
    assert not outcome.divisible
    assert problem in outcome.reason
    assert f"id {identifier}" in outcome.reason
    assert server.trace_requests == []


def test_unknown_experiment_id(server: FakeTrackingServer) -> None:
    destination = destination_at(server, experiment_name=None, experiment_id="99")
    outcome = destination.send(batch_of())
    assert isinstance(outcome, Retry)
    assert outcome.lasting
    assert "MLFLOW_EXPERIMENT_ID" in outcome.reason
    assert destination.warm_up() == outcome


def test_deleted_experiment_is_not_written_to(server: FakeTrackingServer) -> None:
    server.add_experiment("mine", "deleted")
    destination = destination_at(server)
    outcome = destination.send(batch_of())
    assert isinstance(outcome, Retry)
    assert outcome.lasting
    assert "deleted" in outcome.reason
    assert server.trace_requests == []
    server.experiments["mine"]["lifecycle_stage"] = "active"
    assert destination.send(batch_of()) == Sent(3)


def test_experiment_that_is_deleted_meanwhile_is_noticed(server: FakeTrackingServer) -> None:
    server.add_experiment("mine")
    now = [0.0]
    config = MLflowDSPyConfig(tracking_uri=server.http.url, experiment_name="mine")
    experiments = Experiments(config, ServerExperiments(TrackingServer(config)), lambda: now[0])
    assert experiments.resolve(None) == "1"
    server.experiments["mine"]["lifecycle_stage"] = "deleted"
    assert experiments.resolve(None) == "1"
    now[0] = 61.0
    assert isinstance(experiments.resolve(None), Retry)


def test_an_experiment_id_that_is_no_number_is_refused_without_a_request() -> None:
    directory: Any = None
    config = MLflowDSPyConfig(tracking_uri="http://127.0.0.1:1", experiment_name="mine")
    outcome = Experiments(config, directory).resolve("team-a")
    assert isinstance(outcome, Rejected)
    assert "'team-a'" in outcome.reason


def test_server_with_a_new_database_gets_the_experiment_again(server: FakeTrackingServer) -> None:
    destination = destination_at(server)
    assert destination.send(batch_of()) == Sent(3)
    server.experiments.clear()
    for name in ("other", "another"):
        server.add_experiment(name)
    server.experiments["other"]["experiment_id"] = "17"
    assert destination.send(batch_of()) == Sent(3)
    assert [request.headers["x-mlflow-experiment-id"] for request in server.trace_requests] == [
        "1",
        "1",
        "3",
    ]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Status(500), Retry("", None, about_spans=True)),
        (Status(502), Retry("", None)),
        (Status(503, retry_after=7), Retry("", 7.0)),
        (Status(503, retry_after="soon"), Retry("", None)),
        (Status(504), Retry("", None)),
        (Status(429, retry_after=0.5), Retry("", 0.5)),
        (Status(408), Retry("", None)),
        (Status(425), Retry("", None)),
        (Reset(), Retry("", None)),
        (HalfBody(), Retry("", None)),
        (Hang(30), Retry("", None)),
        (Status(400), Rejected("")),
        (Status(413), Rejected("", too_large=True)),
        (Status(422), Rejected("")),
        (Status(401), Retry("", None, lasting=True)),
        (Status(403), Retry("", None, lasting=True, about_spans=True)),
        (Status(404), Retry("", None, lasting=True)),
        (Status(501), Retry("", None, lasting=True)),
        (Status(302, headers={"Location": "/login"}), Retry("", None, lasting=True)),
        (Status(308, headers={"Location": "/"}), Retry("", None, lasting=True)),
        (
            Status(200, body="<html>", headers={"Content-Type": "text/html"}),
            Retry("", None, lasting=True),
        ),
        (Status(200, body="\x05", headers=PROTOBUF), Retry("", None)),
    ],
    ids=str,
)
def test_answer(server: FakeTrackingServer, fault: Fault, expected: Outcome) -> None:
    server.add_experiment("mine")
    # A HalfBody needs an answer of which there can be half.
    server.traces_reply = HttpReply(200, JSON, b'{"partialSuccess": {}}')
    destination = destination_at(server, request_timeout_seconds=0.5)
    assert destination.warm_up() is None
    server.http.fail_with(fault)
    outcome = destination.send(batch_of())
    assert without_reason(outcome) == expected
    assert isinstance(outcome, (Retry, Rejected))
    assert ": " in outcome.reason or "damaged" in outcome.reason
    again = destination.send(batch_of())
    assert isinstance(again, Sent)
    assert (again.spans, again.rejected) == (3, 0)


def without_reason(outcome: Outcome) -> Outcome:
    return outcome if isinstance(outcome, Sent) else replace(outcome, reason="")


def test_retry_after_a_date(server: FakeTrackingServer) -> None:
    server.add_experiment("mine")
    moment = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    server.http.fail_with(Status(503, retry_after=moment))
    outcome = destination_at(server).send(batch_of())
    assert isinstance(outcome, Retry)
    assert outcome.after is not None
    assert 50 < outcome.after <= 100


@pytest.mark.parametrize("as_json", [True, False])
def test_warning_with_a_success(server: FakeTrackingServer, as_json: bool) -> None:
    partial = ExportTracePartialSuccess(error_message="slow down")
    body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    server.traces_reply = HttpReply(200, PROTOBUF, body)
    if as_json:
        server.traces_reply = json_reply(200, {"partialSuccess": {"errorMessage": "slow down"}})
    outcome = destination_at(server).send(batch_of(5))
    assert outcome == Sent(5, 0, "the tracking server warns: slow down")


@pytest.mark.parametrize("as_json", [True, False])
def test_partial_success(server: FakeTrackingServer, as_json: bool) -> None:
    partial = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    body = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    server.traces_reply = HttpReply(200, PROTOBUF, body)
    if as_json:
        server.traces_reply = json_reply(
            200, {"partialSuccess": {"rejectedSpans": "2", "errorMessage": "too old"}}
        )
    outcome = destination_at(server).send(batch_of(5))
    assert outcome == Sent(3, 2, "the tracking server rejected spans: too old")


def test_look_up_that_fails_is_tried_again(server: FakeTrackingServer) -> None:
    destination = destination_at(server)
    server.http.stop()
    outcome = destination.send(batch_of())
    assert isinstance(outcome, Retry)
    assert "MLFLOW_TRACKING_URI" in outcome.reason
    assert "refused" in outcome.reason
    server.http.start()
    assert destination.send(batch_of()) == Sent(3)


def test_server_that_is_not_mlflow(server: FakeTrackingServer) -> None:
    destination = ServerDestination(
        MLflowDSPyConfig(tracking_uri=f"{server.http.url}/wiki", experiment_name="mine")
    )
    outcome = destination.warm_up()
    assert isinstance(outcome, Retry)
    assert outcome.lasting
    assert "no MLflow tracking server" in outcome.reason
    assert "MLFLOW_TRACKING_URI" in outcome.reason


def basic(text: str) -> str:
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tracking_username": "me", "tracking_password": "geheim"}, basic("me:geheim")),
        ({"tracking_username": "mé", "tracking_password": "東京"}, basic("mé:東京")),
        ({"tracking_token": "t0ken"}, "Bearer t0ken"),
        (
            {"tracking_username": "me", "tracking_password": "x", "tracking_token": "t"},
            basic("me:x"),
        ),
        ({"tracking_username": "me", "tracking_token": "t"}, "Bearer t"),
        ({"headers": {"Authorization": "Custom 5"}}, "Custom 5"),
        ({}, None),
    ],
)
def test_credentials(
    server: FakeTrackingServer,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    expected: str | None,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    destination_at(server, **settings).send(batch_of())
    assert {request.headers.get("authorization") for request in server.requests} == {expected}


def test_credentials_in_the_address_are_used_and_not_shown(server: FakeTrackingServer) -> None:
    uri = server.http.url.replace("http://", "http://me:ge%20heim@")
    destination = ServerDestination(MLflowDSPyConfig(tracking_uri=uri))
    destination.warm_up()
    assert server.requests[0].headers["authorization"] == basic("me:ge heim")
    server.http.stop()
    assert "heim" not in str(destination.warm_up())


def test_workspace_and_more_headers(server: FakeTrackingServer) -> None:
    destination_at(server, workspace="team-a", headers="X-One=1,X-Two=2=2").send(batch_of())
    for request in server.requests:
        assert request.headers["x-mlflow-workspace"] == "team-a"
        assert request.headers["x-one"] == "1"
        assert request.headers["x-two"] == "2=2"


def test_proxy_from_the_environment(
    server: FakeTrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.http.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    destination = ServerDestination(MLflowDSPyConfig(tracking_uri="http://mlflow.invalid:5000"))
    destination.warm_up()
    assert server.requests[0].path.startswith("http://mlflow.invalid:5000/api/")


def test_unknown_auth_plugin() -> None:
    with pytest.raises(ConfigurationError, match="MLFLOW_TRACKING_AUTH"):
        ServerDestination(
            MLflowDSPyConfig(tracking_uri="http://mlflow.invalid", tracking_auth="nobody")
        )


def test_unreadable_certificate_is_no_crash(server: FakeTrackingServer) -> None:
    destination = ServerDestination(
        MLflowDSPyConfig.model_validate(
            {"tracking_uri": "https://127.0.0.1:1", "server_cert_path": "/nowhere/ca.pem"}
        )
    )
    assert isinstance(destination.warm_up(), Retry)


def test_host_that_does_not_exist() -> None:
    destination = ServerDestination(MLflowDSPyConfig(tracking_uri="http://mlflow.invalid:5000"))
    outcome = destination.warm_up()
    assert isinstance(outcome, Retry)
    assert "cannot reach the tracking server (MLFLOW_TRACKING_URI)" in outcome.reason


def test_close_and_use_again(server: FakeTrackingServer) -> None:
    destination = destination_at(server)
    assert destination.send(batch_of()) == Sent(3)
    destination.close()
    destination.close()
    assert destination.send(batch_of()) == Sent(3)


def test_server_that_is_silent(server: FakeTrackingServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        destination = ServerDestination(
            MLflowDSPyConfig(tracking_uri=f"http://127.0.0.1:{port}", request_timeout_seconds=0.2)
        )
        outcome = destination.warm_up()
    assert isinstance(outcome, Retry)
    assert "did not answer in time" in outcome.reason
