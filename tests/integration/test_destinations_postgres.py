# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: as the store of a program, and behind a tracking server with workspaces."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Rejected, Retry, Sent
from mlflow_bridge._export.exporter import MLflowSpanExporter
from tests.integration.stored import traces_by
from tests.support.dspy_spans import Recorder
from tests.support.mlflow_server import MLflowServer
from tests.support.poison import batch_with_poison
from tests.support.postgres import Postgres, postgres_binaries

pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytest.importorskip("psycopg2", reason="MLflow's driver for PostgreSQL")

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("there is no PostgreSQL here (initdb, pg_ctl)")
    with Postgres(binaries) as running:
        yield running


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    with MLflowServer(
        tmp_path_factory.mktemp("server"),
        store_uri=postgres.uri,
        environment={"MLFLOW_ENABLE_WORKSPACES": "true"},
        start_timeout=300,
    ) as running:
        yield running


@pytest.fixture(params=["store", "server"])
def uri(request: pytest.FixtureRequest, postgres: Postgres) -> str:
    # The server makes the tables, so it comes first in any case.
    server: MLflowServer = request.getfixturevalue("server")
    return server.uri if request.param == "server" else postgres.uri


def exporter_to(uri: str, **settings: Any) -> MLflowSpanExporter:
    values = {"tracking_uri": uri, "experiment_name": f"e {uuid.uuid4().hex[:8]}", **settings}
    return MLflowSpanExporter(config=MLflowDSPyConfig.model_validate(values))


def test_programs_are_stored_with_their_totals(uri: str, postgres: Postgres) -> None:
    exporter = exporter_to(uri)
    recorder = Recorder()
    spans = [span for _ in range(10) for span in recorder.rag({"session.id": "s1"})]
    for part in (spans[40:], spans[:50], spans):
        assert exporter.deliver(part) == Sent(len(part))
    traces = traces_by(exporter, postgres.uri)
    assert len(traces) == 10
    for trace in traces:
        assert trace.info.state.value == "OK"
        assert len(trace.data.spans) == 8
        assert (trace.info.token_usage or {})["total_tokens"] == 120
        assert (trace.info.cost or {})["total_cost"] == pytest.approx(0.0012)


@pytest.mark.parametrize("count", [128, pytest.param(512, marks=pytest.mark.scale)])
def test_poison_in_a_batch(uri: str, postgres: Postgres, count: int) -> None:
    exporter = exporter_to(uri, max_attribute_bytes=100_000)
    batch = batch_with_poison(Recorder(), count)
    assert exporter.deliver(batch) == Sent(count)
    assert len(traces_by(exporter, postgres.uri)) == len({span.context.trace_id for span in batch})


def test_workspace_that_does_not_exist_is_for_somebody_to_put_right(server: MLflowServer) -> None:
    outcome = exporter_to(server.uri, workspace="nowhere").deliver(Recorder().many(3))
    assert isinstance(outcome, Retry), outcome
    assert outcome.lasting
    assert exporter_to(server.uri, workspace="default").deliver(Recorder().many(3)) == Sent(3)


def test_database_that_goes_away_and_comes_back(uri: str, postgres: Postgres) -> None:
    exporter = exporter_to(uri)
    recorder = Recorder()
    assert exporter.deliver(recorder.rag()) == Sent(8)
    spans = [span for _ in range(10) for span in recorder.rag()]
    postgres.stop()
    try:
        assert isinstance(exporter.deliver(spans), Retry)
    finally:
        postgres.start()
    for _ in range(10):  # connections of the pool, broken ones first
        outcome = exporter.deliver(spans)
        assert not isinstance(outcome, Rejected)
        if isinstance(outcome, Sent):
            break
    assert len(traces_by(exporter, postgres.uri)) == 11
    assert exporter.stats().rejected == 0
