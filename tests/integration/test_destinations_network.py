# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What lies between a program and its tracking server: TLS, proxies, and patience."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Outcome, Retry, Sent
from mlflow_bridge._export.exporter import MLflowSpanExporter
from tests.support.dspy_spans import Recorder
from tests.support.fake_tracking_server import FakeTrackingServer
from tests.support.loopback import HttpReply, HttpRequest, LoopbackServer

pytest.importorskip("cryptography", reason="makes certificates")

from tests.support.certificates import Certificates, make_certificates

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_server(certificates: Certificates) -> Iterator[FakeTrackingServer]:
    server = FakeTrackingServer(certificates.server_context())
    with server.http:
        yield server


@pytest.fixture
def strict_server(certificates: Certificates) -> Iterator[FakeTrackingServer]:
    """One that knows its clients by their certificates."""
    server = FakeTrackingServer(certificates.server_context(ask_client=True))
    with server.http:
        yield server


@pytest.fixture
def server() -> Iterator[FakeTrackingServer]:
    fake = FakeTrackingServer()
    with fake.http:
        yield fake


def deliver(server: FakeTrackingServer, spans: int = 3, **settings: Any) -> Outcome:
    config = MLflowDSPyConfig.model_validate({"tracking_uri": server.http.url, **settings})
    exporter = MLflowSpanExporter(config=config)
    try:
        return exporter.deliver(Recorder().many(spans))
    finally:
        exporter.close()


def test_certificate_of_an_authority_that_is_named(
    tls_server: FakeTrackingServer, certificates: Certificates
) -> None:
    assert deliver(tls_server, server_cert_path=certificates.authority) == Sent(3)
    assert sum(tls_server.stored.values()) == 3


def test_settings_for_tls_from_the_environment(
    strict_server: FakeTrackingServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificates.authority))
    monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(certificates.client))
    assert deliver(strict_server) == Sent(3)


def test_certificate_of_an_unknown_authority_is_for_somebody_to_put_right(
    tls_server: FakeTrackingServer,
) -> None:
    outcome = deliver(tls_server)
    assert isinstance(outcome, Retry)
    assert outcome.lasting
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in outcome.reason
    assert tls_server.requests == []


def test_verification_that_is_switched_off(tls_server: FakeTrackingServer) -> None:
    assert deliver(tls_server, insecure_tls=True) == Sent(3)


def test_server_that_asks_for_a_certificate_and_gets_none(
    strict_server: FakeTrackingServer, certificates: Certificates
) -> None:
    outcome = deliver(strict_server, server_cert_path=certificates.authority)
    assert isinstance(outcome, Retry)
    assert "MLFLOW_TRACKING_URI" in outcome.reason
    assert strict_server.requests == []


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    """An HTTP proxy, which the environment names."""

    def forward(request: HttpRequest) -> HttpReply:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                request.method, request.path, headers=dict(request.headers), data=request.body
            )
        kind = answer.headers.get("Content-Type", "")
        return HttpReply(answer.status_code, {"Content-Type": kind, "Via": "test"}, answer.content)

    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    forwarded: list[HttpRequest] = []
    with LoopbackServer(forward, received=forwarded.append) as running:
        monkeypatch.setenv("http_proxy", running.url)
        running.forwarded = forwarded  # type: ignore[attr-defined]
        yield running


def forwarded_by(proxy: LoopbackServer) -> list[HttpRequest]:
    return proxy.forwarded  # type: ignore[attr-defined]


def test_proxy_of_the_environment(server: FakeTrackingServer, proxy: LoopbackServer) -> None:
    assert deliver(server, 100) == Sent(100)
    assert len(forwarded_by(proxy)) == len(server.requests) == 4
    assert sum(server.stored.values()) == 100


def test_no_proxy_is_honoured(
    server: FakeTrackingServer, proxy: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert deliver(server) == Sent(3)
    assert (len(forwarded_by(proxy)), sum(server.stored.values())) == (0, 3)


def test_cold_server_takes_its_time_for_the_first_write(
    server: FakeTrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenTelemetry's own exporter waits as long as this says, and 10 seconds by default.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert MLflowDSPyConfig().request_timeout_seconds > 10

    def slow(request: HttpRequest) -> HttpReply | None:
        if request.path == "/v1/traces" and not server.stored:
            time.sleep(1.5)
        return None

    server.refuse = slow
    assert deliver(server) == Sent(3)
    assert len(server.trace_requests) == 1


def test_server_that_is_slower_than_the_patience_for_one_request(
    server: FakeTrackingServer,
) -> None:
    def slow(request: HttpRequest) -> HttpReply | None:
        if request.path == "/v1/traces" and len(server.trace_requests) == 1:
            # It still does its work, like a server whose client has stopped waiting.
            server.http.closing.wait(3)
        return None

    server.refuse = slow
    config = MLflowDSPyConfig(tracking_uri=server.http.url, request_timeout_seconds=0.5)
    exporter = MLflowSpanExporter(config=config)
    spans = Recorder().many(3)
    assert isinstance(exporter.deliver(spans), Retry)
    deadline = time.monotonic() + 60
    while not isinstance(exporter.deliver(spans), Sent):
        assert time.monotonic() < deadline
    assert server.stored.keys() == {"span 0", "span 1", "span 2"}


def test_credentials_do_not_follow_a_redirect(server: FakeTrackingServer, tmp_path: Path) -> None:
    elsewhere = FakeTrackingServer()
    with elsewhere.http:
        server.refuse = lambda request: HttpReply(
            307, {"Location": elsewhere.http.url + request.path}
        )
        outcome = deliver(server, tracking_token="secret")
    assert isinstance(outcome, Retry)
    assert outcome.lasting
    assert elsewhere.requests == []
    assert "secret" not in outcome.reason
