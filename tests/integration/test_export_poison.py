# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Values that MLflow refuses, among other spans: each span is stored, and each is legible.

The same for PostgreSQL stands with the tests for that.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Sent
from mlflow_bridge._export.exporter import MLflowSpanExporter
from tests.integration.stored import traces_by
from tests.support.dspy_spans import Recorder
from tests.support.poison import POISON, batch_with_poison

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from sqlalchemy import event
from sqlalchemy.engine import Engine

pytestmark = pytest.mark.integration


@pytest.fixture(params=["store", "server"])
def uri(request: pytest.FixtureRequest) -> str:
    if request.param == "server":
        return request.getfixturevalue("shared_server").uri
    return request.getfixturevalue("store_uri")


def exporter_to(uri: str, max_attribute_bytes: int) -> MLflowSpanExporter:
    config = MLflowDSPyConfig(
        tracking_uri=uri,
        experiment_name=f"poison {uuid.uuid4().hex[:8]}",
        max_attribute_bytes=max_attribute_bytes,
    )
    return MLflowSpanExporter(config=config)


@pytest.mark.parametrize("count", [128, pytest.param(512, marks=pytest.mark.scale)])
def test_poison_in_a_batch(uri: str, count: int) -> None:
    exporter = exporter_to(uri, 100_000)
    assert exporter.deliver(batch_with_poison(Recorder(), count)) == Sent(count)
    assert exporter.stats().rejected == 0
    stored = {trace.data.spans[0].name: trace for trace in traces_by(exporter)}
    assert len(stored) == count
    assert stored.keys() >= POISON.keys()
    for kind in POISON:
        span = stored[kind].data.spans[0]
        # What a browser is given has to be JSON in the strict sense.
        json.loads(json.dumps(span.to_dict(), allow_nan=False))
        assert len(span.events) == len(span.links) == 1
    info = stored["300-character session"].info
    assert info.trace_metadata["mlflow.trace.session"] == "s" * 250


def test_whole_span_of_20_megabytes(uri: str) -> None:
    exporter = exporter_to(uri, 64_000_000)
    span = Recorder().one("large", {"text": "ä" * 10_000_000})
    assert exporter.deliver([span]) == Sent(1)
    [trace] = traces_by(exporter)
    assert len(trace.data.spans[0].attributes["text"]) == 10_000_000


def test_a_batch_is_one_transaction(store_uri: str) -> None:
    exporter = MLflowSpanExporter(store_uri)
    recorder = Recorder()
    assert exporter.deliver(recorder.rag()) == Sent(8)
    spans = [span for _ in range(64) for span in recorder.rag()]
    with committed_writes() as commits:
        assert exporter.deliver(spans) == Sent(512)
    assert len(commits) == 1


@contextmanager
def committed_writes() -> Generator[list[object]]:
    """The connections that commit a transaction which has written something."""
    writing: set[object] = set()
    commits: list[object] = []

    def before(connection: object, cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
            writing.add(connection)

    def commit(connection: object) -> None:
        if connection in writing:
            writing.discard(connection)
            commits.append(connection)

    engine = Engine
    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "commit", commit)
    try:
        yield commits
    finally:
        event.remove(engine, "before_cursor_execute", before)
        event.remove(engine, "commit", commit)
