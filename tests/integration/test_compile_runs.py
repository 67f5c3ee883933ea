# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``compile`` of an optimizer as a run in MLflow, with its evaluations as runs below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration

SOURCE = """
    import threading

    import dspy
    from dspy.utils import DummyLM
    from mlflow_bridge import autolog

    autolog(log_evals=True, log_compiles=True)
    examples = [
        dspy.Example(question=f"q{n}", answer="a").with_inputs("question") for n in range(4)
    ]

    def right(example, prediction, trace=None):
        return example.answer == prediction.answer

    def optimize(name):
        optimizer = dspy.BootstrapFewShotWithRandomSearch(
            metric=right,
            max_bootstrapped_demos=1,
            max_labeled_demos=1,
            num_candidate_programs=1,
            num_threads=2,
        )
        program = dspy.Predict(f"question -> {name}")
        program.signature = dspy.Signature("question -> answer", name)
        with dspy.context(lm=DummyLM([{"answer": "a"}] * 200)):
            optimizer.compile(program, trainset=examples, valset=examples[:2])

    threads = [threading.Thread(target=optimize, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


@pytest.mark.parametrize("kind", ["store", "server"])
def test_two_optimizers_at_the_same_time(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    is_server = kind == "server"
    fixture = request.getfixturevalue("shared_server" if is_server else "store_uri")
    uri = fixture.uri if isinstance(fixture, MLflowServer) else fixture
    name = f"compile {tmp_path.name}"

    run_program(
        SOURCE,
        tmp_path,
        {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": name},
        zygote=MLFLOW,
    )

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    compiles = [
        run for run in runs if run.info.run_name == "compile BootstrapFewShotWithRandomSearch"
    ]
    assert len(compiles) == 2
    for compiled in compiles:
        run_id = compiled.info.run_id
        assert "mlflow.runType" not in compiled.data.tags
        assert compiled.data.params["optimizer"] == "BootstrapFewShotWithRandomSearch"
        assert compiled.data.params["optimizer.max_labeled_demos"] == "1"
        assert compiled.data.params["student"] == "Predict"
        assert (compiled.data.params["trainset_size"], compiled.data.params["valset_size"]) == (
            "4",
            "2",
        )
        assert compiled.data.metrics["best_score"] == 100.0
        trials = [
            run
            for run in runs
            if run.data.tags.get("mlflow.parentRunId") == run_id
            and run.info.run_name == "evaluate right"
        ]
        assert [run.data.params["trial"] for run in trials] == ["0", "1", "2", "3"]
        assert all(run.data.tags["mlflow.runType"] == "genai_evaluate" for run in trials)
        assert all(run.data.metrics["traces"] == 2.0 for run in trials)
        steps = client.get_metric_history(run_id, "trial/score")
        assert sorted((step.step, step.value) for step in steps) == [
            (number, 100.0) for number in range(4)
        ]
        for trial in trials:
            traces = client.search_traces(
                locations=[experiment.experiment_id],
                filter_string=f"run_id = '{trial.info.run_id}'",
            )
            assert len(traces) == 2
