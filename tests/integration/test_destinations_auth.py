# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A tracking server that knows its users: MLflow's own authentication."""

from __future__ import annotations

import base64
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Outcome, Retry, Sent
from mlflow_bridge._export.exporter import MLflowSpanExporter
from tests.support.dspy_spans import Recorder
from tests.support.mlflow_server import MLflowServer

pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytest.importorskip("flask_wtf", reason="MLflow's authentication needs it")

pytestmark = pytest.mark.integration

ADMIN = ("admin", "password of the admin")
READER = ("reader", "password of a reader")


@pytest.fixture(scope="module")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    directory = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, directory / "mlflow.db")
    users = directory / "users.ini"
    # Not MLFLOW_AUTH_ADMIN_PASSWORD, which the oldest MLflow does not know.
    users.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{directory}/users.db\n"
        f"admin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
        "utf-8",
    )
    with MLflowServer(
        directory,
        start_timeout=300,
        options=("--app-name", "basic-auth"),
        environment={
            "MLFLOW_AUTH_CONFIG_PATH": str(users),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of no importance",
        },
    ) as running:
        add_user(running, *READER)
        yield running


def add_user(server: MLflowServer, name: str, password: str) -> None:
    credentials = base64.b64encode(":".join(ADMIN).encode()).decode()
    request = urllib.request.Request(
        f"{server.uri}/api/2.0/mlflow/users/create",
        data=json.dumps({"username": name, "password": password}).encode(),
        headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).close()


def deliver(server: MLflowServer, **settings: Any) -> Outcome:
    values = {"tracking_uri": server.uri, "experiment_name": "guarded", **settings}
    exporter = MLflowSpanExporter(config=MLflowDSPyConfig.model_validate(values))
    try:
        return exporter.deliver(Recorder().many(3))
    finally:
        exporter.close()


def as_user(name: str, password: str) -> dict[str, str]:
    return {"tracking_username": name, "tracking_password": password}


def test_user_who_may_write(server: MLflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert deliver(server, **as_user(*ADMIN)) == Sent(3)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
    assert deliver(server) == Sent(3)


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ({}, 401),
        (as_user("admin", "wrong"), 401),
        (as_user("nobody", "at all"), 401),
        ({"tracking_token": "unknown"}, 401),
        (as_user(*READER), 403),
    ],
    ids=["none", "wrong password", "unknown user", "token", "may only read"],
)
def test_credentials_that_somebody_has_to_put_right(
    server: MLflowServer, settings: dict[str, str], status: int
) -> None:
    assert deliver(server, **as_user(*ADMIN)) == Sent(3)  # so that there is an experiment
    outcome = deliver(server, **settings)
    assert isinstance(outcome, Retry)
    assert outcome.lasting
    assert f"HTTP {status}" in outcome.reason
    assert "MLFLOW_TRACKING_USERNAME" in outcome.reason
    assert "password of" not in outcome.reason
