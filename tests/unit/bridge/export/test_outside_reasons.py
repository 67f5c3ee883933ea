# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What servers and drivers say is shown as one printable line without credentials."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

import mlflow_bridge
from mlflow_bridge import MLflowDSPyConfig, MLflowSpanExporter
from mlflow_bridge._config.settings import secrets_of
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from mlflow_bridge._export.delivery import Delivery
from mlflow_bridge._setup.doctor import round_trip
from tests.support.dspy_spans import Recorder
from tests.support.fake_tracking_server import FakeTrackingServer
from tests.support.loopback import HttpReply, HttpRequest
from tests.unit.bridge.export.fake_destination import Answer, FakeDestination

SECRET = "geheim-0123456789"
SAID = f"refused: token {SECRET}\n2030-01-01 root INFO all is well \x1b[2J\u202e"


class Failing(FakeDestination):
    def warm_up(self) -> Retry | Rejected | None:
        return Retry(SAID)


@pytest.fixture
def server() -> Iterator[FakeTrackingServer]:
    fake = FakeTrackingServer()
    with fake.http:
        yield fake


def is_safe(text: str) -> bool:
    return text.isprintable() and SECRET[:8] not in text


def delivered(answer: Answer) -> tuple[Delivery, Outcome]:
    delivery = Delivery(
        Failing([answer]), max_attribute_bytes=1000, max_batch_bytes=1000, secrets=[SECRET]
    )
    return delivery, delivery.attempt(Recorder().many(1))


@pytest.mark.parametrize(
    "answer",
    [Retry(SAID), Rejected(SAID), Sent(1, reason=SAID), ValueError(SAID), OSError(SAID)],
    ids=lambda answer: type(answer).__name__,
)
def test_the_reason_of_any_outcome(answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        delivery, outcome = delivered(answer)
    assert outcome.reason == "" or is_safe(outcome.reason)
    assert is_safe(delivery.stats.last_error)
    assert all(map(is_safe, caplog.messages))


def test_the_reason_why_a_destination_cannot_be_opened() -> None:
    delivery, _ = delivered(Sent(1))
    failure = delivery.warm_up()
    assert failure is not None
    assert is_safe(failure.reason)
    assert failure.reason.startswith("refused: token [REDACTED]\\n2030")


def repeating(request: HttpRequest) -> HttpReply:
    """A gateway that repeats the credentials, so that a cut at any length shows a part of them."""
    said = f"bad credentials {request.headers.get('authorization')} " * 20
    body = {"message": f"{said}\n{said}", "error_code": "UNAUTHENTICATED\x1b[2J"}
    return HttpReply(401, {"Content-Type": "application/json"}, json.dumps(body).encode())


@pytest.mark.parametrize(
    "settings",
    [
        {"tracking_token": SECRET},
        {"tracking_username": "me", "tracking_password": SECRET},
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
    ],
)
def test_a_gateway_that_repeats_the_credentials(
    settings: dict[str, Any], server: FakeTrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.refuse = repeating
    monkeypatch.setattr(round_trip, "_PAUSE_SECONDS", 0.0)
    config = MLflowDSPyConfig(tracking_uri=server.http.url, spool=False, **settings)
    encoded = base64.b64encode(f"me:{SECRET}".encode()).decode()
    outcome = MLflowSpanExporter(config=config).deliver(Recorder().many(1))
    report = str(mlflow_bridge.doctor(config=config))
    assert "bad credentials" in outcome.reason
    assert "bad credentials" in report
    for text in (outcome.reason, *report.splitlines()):
        assert is_safe(text)
        assert encoded[:12] not in text


@pytest.mark.parametrize(
    ("uri", "secrets"),
    [
        ("http://me:geh%2Feim@host", {"geh%2Feim", "geh/eim"}),
        ("postgresql://me:geh%40eim#5@host/db", {"geh%40eim#5", "geh@eim#5"}),
        ("postgresql://host/db?user=me&password=geheim", {"geheim"}),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dgeheim", {"geheim"}),
        ("sqlite:////tmp/a.db", set[str]()),
    ],
)
def test_the_secrets_of_an_address(uri: str, secrets: set[str]) -> None:
    found = secrets_of(MLflowDSPyConfig(tracking_uri=uri))
    assert secrets <= found
    assert bool(found) is bool(secrets)


def test_the_answer_to_an_experiment_is_shown_in_one_line(
    server: FakeTrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server chooses the ids and names of experiments."""
    server.add_experiment("Default", stage="deleted\n")
    server.experiments["Default"]["experiment_id"] = "7\n\x1b[2J"
    config = MLflowDSPyConfig(tracking_uri=server.http.url, spool=False)
    outcome = MLflowSpanExporter(config=config).deliver(Recorder().many(1))
    assert is_safe(outcome.reason)
