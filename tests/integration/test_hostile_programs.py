# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs with values that nothing can encode, all the way into a real MLflow store."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowSpanExporter
from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.integration.stored import traces_by
from tests.integration.test_dspy_otlp import HOSTILE

pytest.importorskip("mlflow")

pytestmark = pytest.mark.integration


class PassOn(dspy.Module):
    def forward(self, value: Any) -> Any:
        return value


def test_each_is_a_trace_in_mlflow_that_is_bounded_and_json(store_uri: str) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    values = [*HOSTILE.values(), cycle]
    exporter = MLflowSpanExporter(store_uri, experiment_name="hostile")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(MLflowBatchSpanProcessor(exporter))
    DSPyInstrumentor().instrument(
        tracer_provider=provider, capture_content=True, skip_dep_check=True
    )
    try:
        for value in values:
            assert PassOn()(value=value) is value
    finally:
        DSPyInstrumentor().uninstrument()
    assert provider.force_flush(60_000)

    stored = traces_by(exporter)
    provider.shutdown()
    assert [trace.info.state.value for trace in stored] == ["OK"] * len(values)
    for trace in stored:
        assert trace.info.request_preview
        [span] = trace.data.spans
        assert span.inputs.keys() == {"value"}
        # JSON has no NaN: it is null, and MLflow has no preview for null.
        assert bool(trace.info.response_preview) == (span.inputs["value"] is not None)
        text = json.dumps(span.to_dict(), allow_nan=False)
        assert len(text.encode()) < 1_000_000
