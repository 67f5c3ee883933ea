# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluations of which each example is a trace of its own, in MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import MLFLOW

pytestmark = pytest.mark.integration

SOURCE = """
    import dspy, mlflow
    from dspy.utils import DummyLM
    from mlflow_bridge import autolog, trace_context

    autolog(log_evals=True, sampling_rate=0.0, tail_rate=0.0)
    devset = [
        dspy.Example(question=f"q{number}", answer="a").with_inputs("question")
        for number in range(12)
    ]

    def agrees(example, prediction, trace=None):
        return example.answer == prediction.answer

    mlflow.set_experiment("examples")
    with mlflow.start_run() as run, dspy.context(lm=DummyLM([{"answer": "a"}] * 12)):
        with trace_context(name="nightly", session_id="s-1", user_id="ada", tags={"team": "north"}):
            dspy.Evaluate(devset=devset, metric=agrees, num_threads=4)(
                dspy.Predict("question -> answer")
            )
    print(run.info.run_id)
"""


def test_each_example_is_found_as_a_trace(store_uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    environment = {"MLFLOW_TRACKING_URI": store_uri, "MLFLOW_EXPERIMENT_NAME": "examples"}

    done = run_program(SOURCE, tmp_path, environment, zygote=MLFLOW)

    run_id = done.stdout.split()[-1]
    traces = {
        trace.info.tags["mlflow.traceName"]: trace for trace in stored_traces(store_uri, "examples")
    }
    evaluation = traces.pop("nightly")
    assert set(traces) == {f"example {number}" for number in range(12)}
    runs: set[str] = set()
    for name, trace in traces.items():
        info = trace.info
        assert json.loads(info.request_preview) == {"question": f"q{name.split()[-1]}"}
        assert json.loads(info.response_preview) == {"answer": "a"}
        assert info.state.value == "OK"
        assert info.tags["team"] == "north"
        assert info.trace_metadata["mlflow.trace.session"] == "s-1"
        assert info.trace_metadata["mlflow.trace.user"] == "ada"
        runs.add(info.trace_metadata["mlflow.sourceRun"])
        root = trace.data.spans[0]
        assert f"tr-{root.attributes['dspy.evaluate.trace_id']}" == evaluation.info.trace_id
        names = {span.name for span in trace.data.spans}
        assert "metric agrees" in names
        assert not any(span.name.startswith("evaluate") for span in trace.data.spans)
    assert [span.name for span in evaluation.data.spans] == ["evaluate agrees"]
    assert evaluation.info.trace_metadata["mlflow.sourceRun"] == run_id
    [evaluation_run] = runs
    run = MlflowClient(store_uri).get_run(evaluation_run)
    assert run.data.tags["mlflow.parentRunId"] == run_id


def test_the_examples_of_an_evaluation_are_found_by_its_id(store_uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    environment = {"MLFLOW_TRACKING_URI": store_uri, "MLFLOW_EXPERIMENT_NAME": "examples"}
    run_program(SOURCE, tmp_path, environment, zygote=MLFLOW)

    client = MlflowClient(store_uri)
    experiment = client.get_experiment_by_name("examples")
    assert experiment is not None
    [evaluation] = client.search_traces(
        locations=[experiment.experiment_id], filter_string="trace.name = 'nightly'"
    )
    trace_id = evaluation.info.trace_id.removeprefix("tr-")
    found = client.search_traces(
        locations=[experiment.experiment_id],
        filter_string=f"span.attributes.`dspy.evaluate.trace_id` LIKE '%{trace_id}%'",
    )
    assert len(found) == 12
