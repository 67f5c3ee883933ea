# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""An experiment of a test's own, in a SQL store or behind a tracking server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Sent
from mlflow_bridge._export.exporter import MLflowSpanExporter
from tests.support.dspy_spans import Recorder

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow import MlflowClient
from mlflow.entities import Span, Trace, TraceInfo


@dataclass
class Place:
    """An experiment of a test's own."""

    client: MlflowClient
    config: MLflowDSPyConfig
    recorder: Recorder

    def exporter(self, **settings: Any) -> MLflowSpanExporter:
        values = {**self.config.model_dump(), **settings}
        return MLflowSpanExporter(config=MLflowDSPyConfig.model_validate(values))

    def store(self, spans: list[ReadableSpan], **settings: Any) -> None:
        exporter = self.exporter(**settings)
        outcome = exporter.deliver(spans)
        assert (type(outcome), exporter.stats().sent) == (Sent, len(spans)), outcome
        exporter.close()

    def traces(self, filter_string: str | None = None) -> list[Trace]:
        experiment = self.client.get_experiment_by_name(str(self.config.experiment_name))
        assert experiment is not None
        return self.client.search_traces(
            locations=[experiment.experiment_id], filter_string=filter_string
        )

    def trace(self) -> Trace:
        [found] = self.traces()
        return self.client.get_trace(found.info.trace_id)


def tokens_of(info: TraceInfo) -> int:
    return (info.token_usage or {})["total_tokens"]


def cost_of(info: TraceInfo) -> float:
    return (info.cost or {})["total_cost"]


def spans_by_name(trace: Trace) -> dict[str, Span]:
    return {span.name: span for span in trace.data.spans}
