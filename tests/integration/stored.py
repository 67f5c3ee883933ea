# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads back what an exporter has stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow_bridge._export.exporter import MLflowSpanExporter

if TYPE_CHECKING:
    from mlflow.entities import Trace


def traces_by(exporter: MLflowSpanExporter, store: str | None = None) -> list[Trace]:
    """All traces of the exporter's experiment, from its own destination or from another store."""
    from mlflow import MlflowClient

    client = MlflowClient(store or exporter.config.tracking_uri)
    experiment = client.get_experiment_by_name(str(exporter.config.effective_experiment_name))
    assert experiment is not None
    found: list[Trace] = []
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment.experiment_id], max_results=500, page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found
