# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's OTLP endpoint takes what the collectors' exporters are configured to send.

The endpoint is MLflow's own, in this process; only its store is replaced.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from packaging.version import Version

from tests.unit.deploy.files import MLFLOW, collector

pytestmark = pytest.mark.skipif(
    Version(version("mlflow")) < Version(MLFLOW), reason=f"deployed is MLflow {MLFLOW}"
)

EXPORTERS = {
    name: exporter
    for name, exporter in collector("sampler")["exporters"].items()
    if name.startswith("otlp_http/mlflow")
}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


class _Store:
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, int]] = []

    async def log_spans_async(self, experiment_id: str, spans: Sequence[Any]) -> None:
        self.stored.append((experiment_id, len(spans)))


@pytest.fixture
def otel_api() -> ModuleType:
    # Here: at the top, each worker would import the server while it collects the tests.
    from mlflow.server import otel_api

    return otel_api


@pytest.fixture
def store(otel_api: ModuleType, monkeypatch: pytest.MonkeyPatch) -> _Store:
    store = _Store()
    monkeypatch.setattr(otel_api, "_get_tracking_store", lambda: store)
    return store


@pytest.fixture
def client(otel_api: ModuleType, store: _Store) -> TestClient:
    app = FastAPI()
    app.include_router(otel_api.otel_router)
    return TestClient(app)


def _request(*experiments: str) -> bytes:
    request = ExportTraceServiceRequest()
    for number, experiment in enumerate(experiments, start=1):
        resource_spans = request.resource_spans.add()
        attribute = resource_spans.resource.attributes.add()
        attribute.key, attribute.value.string_value = "mlflow.experiment", experiment
        span = resource_spans.scope_spans.add().spans.add()
        span.trace_id, span.span_id = bytes([number] * 16), bytes([number] * 8)
        span.name, span.start_time_unix_nano, span.end_time_unix_nano = "call", 1, 2
    return request.SerializeToString()


def _post(client: TestClient, body: bytes, **headers: str) -> int:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given["content-type"] = "application/x-protobuf"
    return client.post("/v1/traces", content=body, headers=given).status_code


@pytest.mark.parametrize("name", EXPORTERS)
def test_the_exporters_way_of_sending_is_taken(
    name: str, client: TestClient, store: _Store
) -> None:
    compression = EXPORTERS[name]["compression"]
    body = COMPRESSORS[compression](_request("default"))

    assert _post(client, body, content_encoding=compression, x_mlflow_experiment_id="7") == 200
    assert store.stored == [("7", 1)]


@pytest.mark.parametrize("compression", ["zstd", "snappy"])
def test_other_compressions_are_refused_for_good(compression: str, client: TestClient) -> None:
    status = _post(
        client, _request("default"), content_encoding=compression, x_mlflow_experiment_id="7"
    )

    assert status == 400


def test_a_request_without_an_experiment_is_refused(client: TestClient, store: _Store) -> None:
    assert _post(client, _request("default")) == 422
    assert store.stored == []


def test_the_header_decides_for_every_resource_of_a_request(
    client: TestClient, store: _Store
) -> None:
    assert _post(client, _request("default", "support"), x_mlflow_experiment_id="7") == 200
    assert store.stored == [("7", 2)]
