# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which experiment and which run a trace belongs to, in a SQL store and behind a server."""

from __future__ import annotations

import uuid

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.contract import Retry, Sent
from tests.integration.place import Place

pytestmark = pytest.mark.integration


def test_traces_are_linked_to_their_run(place: Place) -> None:
    place.store(place.recorder.many(1))  # so that there is an experiment
    experiment = place.client.get_experiment_by_name(str(place.config.experiment_name))
    assert experiment is not None
    run = place.client.create_run(experiment.experiment_id).info.run_id
    linked: list[ReadableSpan] = []
    for _ in range(103):
        linked.append(place.recorder.one("linked", {"mlflow.sourceRun": run}))
    place.store([*linked, *place.recorder.many(2)])
    found = place.client.search_traces(
        locations=[experiment.experiment_id], run_id=run, max_results=500
    )
    assert {trace.data.spans[0].name for trace in found} == {"linked"}
    assert len(found) == 103


def test_run_that_does_not_exist_costs_no_trace(place: Place) -> None:
    place.store([place.recorder.one("root", {"mlflow.sourceRun": "0" * 32})])
    assert place.trace().info.state.value == "OK"


def test_experiment_that_the_trace_names(place: Place) -> None:
    other = place.client.create_experiment(f"other {uuid.uuid4().hex[:8]}")
    place.store([*place.recorder.rag({"mlflow.experimentId": other}), *place.recorder.many(1)])
    [trace] = place.client.search_traces(locations=[other])
    assert len(trace.data.spans) == 8
    assert len(place.trace().data.spans) == 1


def test_experiment_by_id(place: Place) -> None:
    identifier = place.client.create_experiment(str(place.config.experiment_name))
    place.store(place.recorder.many(1), experiment_name=None, experiment_id=identifier)
    assert len(place.traces()) == 1


def test_deleted_experiment_is_not_written_to(place: Place) -> None:
    identifier = place.client.create_experiment(str(place.config.experiment_name))
    place.client.delete_experiment(identifier)
    spans = place.recorder.many(3)
    for settings in ({}, {"experiment_name": None, "experiment_id": identifier}):
        exporter = place.exporter(**settings)
        outcome = exporter.deliver(spans)
        assert isinstance(outcome, Retry)
        assert outcome.lasting
        assert "the experiment is deleted" in outcome.reason
        assert exporter.stats().rejected == 0
    place.client.restore_experiment(identifier)
    assert place.traces() == []
    place.store(spans)


def test_deleted_experiment_that_the_trace_names(place: Place) -> None:
    other = place.client.create_experiment(f"other {uuid.uuid4().hex[:8]}")
    place.client.delete_experiment(other)
    exporter = place.exporter()
    outcome = exporter.deliver(
        [*place.recorder.rag({"mlflow.experimentId": other}), *place.recorder.many(1)]
    )
    assert isinstance(outcome, Sent)
    assert (outcome.spans, outcome.rejected) == (1, 8)
    assert "mlflow.experimentId" in outcome.reason
    assert len(place.traces()) == 1


def test_experiment_id_that_does_not_exist(place: Place) -> None:
    outcome = place.exporter(experiment_name=None, experiment_id="987654321").warm_up()
    assert isinstance(outcome, Retry)
    assert outcome.lasting
    assert "MLFLOW_EXPERIMENT_ID" in outcome.reason
