# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What MLflow has of one run of the program, as its pages ask for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Span, Trace
from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType
from mlflow.tracing.client import TracingClient

from tests.integration.beside.program import EXPERIMENT, Asked


class Store:
    """The traces of one run, in the order in which the program made them.

    Args:
        uri: The store.
        raised: What MLflow's API raised into the program, by the name of the case.
    """

    def __init__(self, uri: str, raised: Mapping[str, str]) -> None:
        self.uri = uri
        self.raised = raised
        self.client = MlflowClient(uri)
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        self.experiment_id: str = experiment.experiment_id
        found = self._search()
        self.traces = sorted(
            found, key=lambda trace: min(s.start_time_ns for s in trace.data.spans)
        )

    def of(self, case: Asked) -> list[Trace]:
        """The traces of a case, the first of which has the outermost call."""
        return [trace for trace in self.traces if _asks(trace, case)]

    def one(self, case: Asked) -> Trace:
        return self.of(case)[0]

    def spans(self, case: Asked, span_type: str) -> list[Span]:
        """The spans of a type in the first trace of a case."""
        return self.one(case).search_spans(span_type=span_type)

    def finds(self, case: Asked, filter_string: str | None = None, **scope: Any) -> str:
        """Whether a search finds the first trace of a case."""
        found = {trace.info.trace_id for trace in self._search(filter_string, **scope)}
        return "yes" if self.one(case).info.trace_id in found else "no"

    def metric(
        self,
        view: MetricViewType,
        name: str,
        aggregation: AggregationType,
        dimensions: list[str],
        filters: list[str] | None = None,
    ) -> dict[tuple[str, ...], float]:
        """The figures of a dashboard, by the values of their dimensions."""
        points = TracingClient(self.uri).store.query_trace_metrics(
            [self.experiment_id],
            view,
            name,
            [MetricAggregation(aggregation)],
            dimensions=dimensions,
            filters=filters,
        )
        return {
            tuple(str(point.dimensions[each]) for each in dimensions): next(
                iter(point.values.values())
            )
            for point in points
        }

    def _search(self, filter_string: str | None = None, **scope: Any) -> list[Trace]:
        return list(
            self.client.search_traces(
                locations=[self.experiment_id],
                filter_string=filter_string,
                max_results=100,
                **scope,
            )
        )


def _asks(trace: Trace, case: Asked) -> bool:
    return any(case.value in json.dumps(span.inputs, default=str) for span in trace.data.spans)


Read = Callable[[Store], str]
