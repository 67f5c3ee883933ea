# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Two requests at the same time, in different experiments and runs, into one SQL store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig, trace_context

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow import MlflowClient

pytestmark = pytest.mark.integration

STEPS = 4


@pytest.fixture(params=[1, 512], ids=["one span a batch", "all in one batch"])
def provider(store_uri: str, request: pytest.FixtureRequest) -> Iterator[TracerProvider]:
    config = MLflowDSPyConfig(
        tracking_uri=store_uri,
        experiment_name="configured",
        spool=False,
        max_batch_size=request.param,
        exit_timeout_seconds=100,
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(MLflowBatchSpanProcessor(config))
    yield provider
    provider.shutdown()


def test_each_request_lands_in_its_own_experiment_and_run(
    provider: TracerProvider, store_uri: str
) -> None:
    tracer = provider.get_tracer("test")
    client = MlflowClient(store_uri)
    experiments = [client.create_experiment(f"team {number}") for number in range(2)]
    runs = [client.create_run(experiment).info.run_id for experiment in experiments]

    async def request(number: int) -> None:
        place = {"experiment_id": experiments[number], "run_id": runs[number]}
        with trace_context(**place), tracer.start_as_current_span(f"request {number}"):
            for step in range(STEPS):
                with tracer.start_as_current_span(f"step {step}"):
                    await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(request(number % 2) for number in range(6)))
        with tracer.start_as_current_span("elsewhere"):
            pass

    asyncio.run(main())
    assert provider.force_flush(100_000)

    for number, (experiment, run) in enumerate(zip(experiments, runs, strict=True)):
        traces = client.search_traces(locations=[experiment])
        assert [trace.data.spans[0].name for trace in traces] == [f"request {number}"] * 3
        assert {len(trace.data.spans) for trace in traces} == {STEPS + 1}
        assert {trace.info.state.value for trace in traces} == {"OK"}
        linked = client.search_traces(locations=[experiment], run_id=run)
        assert {trace.info.trace_id for trace in linked} == {
            trace.info.trace_id for trace in traces
        }
    configured = client.get_experiment_by_name("configured")
    [trace] = client.search_traces(locations=[configured.experiment_id])
    assert [span.name for span in trace.data.spans] == ["elsewhere"]
