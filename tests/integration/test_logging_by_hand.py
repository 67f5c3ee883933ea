# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``MLflowLogger`` with real runs: what belongs to them, and what is not stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.mlflow_server import MLflowServer

pytestmark = pytest.mark.integration

SECRET = "sk-canary-4711"
SOURCE = f"""
    import os

    import dspy
    from dspy.utils import DummyLM
    from mlflow_bridge import MLflowLogger, autolog, configure_mlflow

    uri, name = os.environ["URI"], os.environ["NAME"]
    configure_mlflow(uri, name)
    client = autolog(tracking_uri=uri, experiment_name=name, log_evals=True)
    lm = DummyLM([{{"answer": "a"}}] * 100)
    lm.kwargs["api_key"] = "{SECRET}"
    dspy.configure(lm=lm)
    devset = [
        dspy.Example(question=f"q{{n}}", answer="a").with_inputs("question") for n in range(3)
    ]

    def right(example, prediction, trace=None):
        return example.answer == prediction.answer

    program = dspy.Predict("question -> answer")
    with MLflowLogger("tuning", {{"team": "search"}}) as run:
        run.log_params({{"k": 5}})
        run.log_metrics({{"recall": 0.8}}, step=2)
        run.log_text("hello", "notes/hello.md")
        run.log_dict({{"a": [1, 2]}}, "settings.json")
        run.set_tags({{"stage": "try"}})
        program(question="by hand")
        dspy.Evaluate(devset=devset, metric=right, num_threads=2)(program)
        run.log_program(program)
    try:
        with MLflowLogger("failing"):
            raise ValueError("no")
    except ValueError:
        pass
    assert client.flush(100)
"""


def check(client: Any, experiment_name: str) -> Any:
    experiment = client.get_experiment_by_name(experiment_name)
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"tuning", "evaluate right", "failing", "dspy-programs"}
    run = runs["tuning"]
    assert (run.info.status, runs["failing"].info.status) == ("FINISHED", "FAILED")
    assert run.data.params == {"k": "5"}
    assert run.data.metrics == {"recall": 0.8}
    assert run.data.tags["team"] == "search"
    assert run.data.tags["stage"] == "try"
    paths = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"notes", "settings.json"} <= paths
    evaluation = runs["evaluate right"]
    assert evaluation.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert evaluation.data.metrics["score"] == 100.0
    traces = client.search_traces(
        locations=[experiment.experiment_id], filter_string=f"run_id = '{run.info.run_id}'"
    )
    names = {trace.info.tags["mlflow.traceName"] for trace in traces}
    assert names == {"Predict question -> answer", "evaluate right"}
    return run


def files_with(text: str, directory: Path) -> list[Path]:
    return [
        path
        for path in directory.rglob("*")
        if path.is_file() and path.name != "program.py" and text.encode() in path.read_bytes()
    ]


def test_in_a_store(store_uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    run_program(SOURCE, tmp_path, {"URI": store_uri, "NAME": "by hand"}, zygote=MLFLOW)
    check(MlflowClient(store_uri), "by hand")
    assert list(tmp_path.rglob("MLmodel"))
    assert files_with(SECRET, tmp_path) == []


def test_at_a_server(shared_server: MLflowServer, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    name = f"by hand {tmp_path.name}"
    run_program(SOURCE, tmp_path, {"URI": shared_server.uri, "NAME": name}, zygote=MLFLOW)
    check(MlflowClient(shared_server.uri), name)
