# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``dspy.Evaluate`` as a run in MLflow: scores, errors and traces, whatever happens to MLflow."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.loopback import HttpReply, HttpRequest, LoopbackServer
from tests.support.mlflow_server import MLflowServer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run, Trace

pytestmark = pytest.mark.integration

EXAMPLES, FAILING = 200, 5
SOURCE = """
    import json, os, threading, time
    from pathlib import Path

    import dspy
    from dspy.utils import DummyLM
    from mlflow_bridge import autolog, trace_context

    client = autolog(log_evals=True, sampling_rate=0.0)
    devset = [
        dspy.Example(question=f"q{number}", answer="a", number=number).with_inputs("question")
        for number in range(200)
    ]
    calls, lock = [0], threading.Lock()

    def graded(example, prediction, trace=None):
        with lock:
            calls[0] += 1
            call = calls[0]
        if call == 67 and "OUTAGE" in os.environ:
            Path("down").touch()
        if 67 <= call <= 134 and "OUTAGE" in os.environ:
            time.sleep(0.3)
        if call == 134 and "OUTAGE" in os.environ:
            Path("down").unlink()
        if example.number % 40 == 3:
            raise ValueError("cannot be graded")
        return dspy.Prediction(score=example.number / 200, feedback=f"number {example.number}")

    with dspy.context(lm=DummyLM([{"answer": "a"}] * 400)), trace_context(session_id="s-1"):
        result = dspy.Evaluate(devset=devset, metric=graded, num_threads=8, max_errors=100)(
            dspy.Predict("question -> answer")
        )
    complete = "OUTAGE" not in os.environ or client.flush(100)  # else at the end of the process
    print(json.dumps({"score": result.score, "complete": complete}))
"""


class Proxy(LoopbackServer):
    """A tracking server that is not there while a file exists."""

    def __init__(self, server: MLflowServer, down: Path) -> None:
        super().__init__(self._forward)
        self._behind, self._down = server, down
        self.refused = 0

    def _forward(self, request: HttpRequest) -> HttpReply:
        if self._down.exists():
            self.refused += 1
            return HttpReply(503, {}, b"down")
        kept = {k: v for k, v in request.headers.items() if k not in ("host", "content-length")}
        answer = requests.request(
            request.method,
            self._behind.uri + request.path,
            headers=kept,
            data=request.body,
            timeout=100,
        )
        kind = answer.headers.get("Content-Type", "")
        return HttpReply(answer.status_code, {"Content-Type": kind}, answer.content)


def evaluate(directory: Path, uri: str, **more: str) -> dict[str, Any]:
    environment = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_EXPERIMENT_NAME": f"evaluation {directory.name}",
        "MLFLOW_DSPY_SCHEDULE_DELAY_SECONDS": "0.2",
        **more,
    }
    done = run_program(SOURCE, directory, environment, zygote=MLFLOW)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["complete"] is True
    return said


def stored(directory: Path, uri: str) -> tuple[MlflowClient, Run, list[Trace]]:
    """The only run, and all of its traces."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(f"evaluation {directory.name}")
    assert experiment is not None
    [run] = client.search_runs(
        [experiment.experiment_id], "tags.`mlflow.runType` = 'genai_evaluate'"
    )
    found: list[Trace] = []
    token = None
    while True:
        page = client.search_traces(
            locations=[experiment.experiment_id],
            filter_string=f"run_id = '{run.info.run_id}'",
            max_results=100,
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            return client, run, found


def check(directory: Path, uri: str, said: dict[str, Any]) -> None:
    client, run, traces = stored(directory, uri)
    assert run.info.run_name == "evaluate graded"
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.runType"] == "genai_evaluate"
    assert run.data.params["metric"] == "graded"
    assert run.data.params["devset_size"] == str(EXAMPLES)
    assert run.data.params["num_threads"] == "8"
    assert run.data.metrics["score"] == said["score"]
    assert run.data.metrics["errors"] == FAILING
    assert run.data.metrics["traces"] == EXAMPLES

    assert len(traces) == EXAMPLES
    numbers: set[int] = set()
    for trace in traces:
        assert trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id
        assert trace.info.trace_metadata["mlflow.trace.session"] == "s-1"
        ids = {span.span_id for span in trace.data.spans}
        assert all(s.parent_id is None or s.parent_id in ids for s in trace.data.spans), "an orphan"
        named: dict[str, Any] = {one.name: one for one in trace.info.assessments}
        number = int(named["number"].value)
        numbers.add(number)
        assert named["answer"].value == "a"
        if number % 40 == 3:
            assert named["graded"].error is not None
            assert "cannot be graded" in str(named["graded"].error.error_message)
        else:
            assert named["graded"].value == number / EXAMPLES
            assert named["graded"].rationale == f"number {number}"
    assert numbers == set(range(EXAMPLES))
    requests_ = {trace.info.tags["mlflow.eval.requestId"] for trace in traces}
    assert len(requests_) == EXAMPLES
    check_results(client, run, traces)
    failing = client.search_traces(
        locations=[traces[0].info.experiment_id], filter_string="trace.status = 'ERROR'"
    )
    assert len(failing) == FAILING


def check_results(client: MlflowClient, run: Run, traces: list[Trace]) -> None:
    import pandas as pd

    listed = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": "eval_results.json", "type": "table"}]
    with tempfile.TemporaryDirectory() as directory:
        path = client.download_artifacts(run.info.run_id, "eval_results.json", directory)
        table = pd.read_json(path, orient="split")
    assert set(table["trace_id"]) == {trace.info.trace_id for trace in traces}
    assert len(table) == EXAMPLES
    row = next(row for row in table.to_dict("records") if row["example"] == "example 10")
    assert json.loads(row["request"]) == {"question": "q10"}
    assert json.loads(row["response"]) == {"answer": "a"}
    assert json.loads(row["expectations"]) == {"answer": "a", "number": 10}
    assert (row["scores"], row["rationales"]) == (0.05, "number 10")
    failed = [row for row in table.to_dict("records") if isinstance(row["errors"], str)]
    assert {row["example"] for row in failed} == {f"example {n}" for n in (3, 43, 83, 123, 163)}
    [given] = run.inputs.dataset_inputs
    assert given.dataset.name == "devset"
    assert json.loads(given.dataset.profile or "") == {"num_rows": EXAMPLES}
    assert [(tag.key, tag.value) for tag in given.tags] == [("mlflow.data.context", "eval")]


def test_each_example_has_its_trace_and_score_in_a_store(store_uri: str, tmp_path: Path) -> None:
    check(tmp_path, store_uri, evaluate(tmp_path, store_uri))


def test_each_example_has_its_trace_and_score_at_a_server_with_an_outage(
    shared_server: MLflowServer, tmp_path: Path
) -> None:
    proxy = Proxy(shared_server, tmp_path / "down")
    with proxy:
        said = evaluate(tmp_path, proxy.url, OUTAGE="1")
    assert proxy.refused
    check(tmp_path, shared_server.uri, said)
