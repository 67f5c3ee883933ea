# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in MLflow's SQL store, through MLflow's client."""

from __future__ import annotations

from typing import Any

from mlflow_bridge._export.runs.contract import RUN_KEY_TAG, NewRun, RunFigures, RunStep


def begin_run(client: Any, experiment_id: str, run: NewRun) -> str:
    """Find the run with this key, or make it, and return its id.

    Args:
        client: An ``mlflow.MlflowClient``.
        experiment_id: The experiment of the run.
        run: The run.

    Raises:
        MlflowException: The store has refused a request.
    """
    condition = f"tags.`{RUN_KEY_TAG}` = '{run.key}'"
    found = client.search_runs([experiment_id], condition, max_results=1)
    if found:
        return str(found[0].info.run_id)
    made = client.create_run(experiment_id, run.start_ms, dict(run.tags), run.name)
    return str(made.info.run_id)


def log_step(client: Any, entities: Any, run_id: str, step: RunStep) -> None:
    """Write the metrics of one step of a run.

    Args:
        client: An ``mlflow.MlflowClient``.
        entities: The module ``mlflow.entities``.
        run_id: The run.
        step: The step.

    Raises:
        MlflowException: The store has refused a request.
    """
    metrics = [
        entities.Metric(name, value, step.time_ms, step.number)
        for name, value in step.metrics.items()
    ]
    client.log_batch(run_id, metrics)


def end_run(client: Any, entities: Any, run_id: str, figures: RunFigures) -> None:
    """Write parameters and metrics of a run, and end it.

    Args:
        client: An ``mlflow.MlflowClient``.
        entities: The module ``mlflow.entities``.
        run_id: The run.
        figures: Its figures.

    Raises:
        MlflowException: The store has refused a request.
    """
    metrics = [
        entities.Metric(name, value, figures.end_ms, 0) for name, value in figures.metrics.items()
    ]
    parameters = [entities.Param(name, value) for name, value in figures.parameters.items()]
    client.log_batch(run_id, metrics, parameters)
    client.set_terminated(run_id, figures.status, figures.end_ms)
