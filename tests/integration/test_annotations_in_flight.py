# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""mlflow.log_feedback(), log_expectation() and set_trace_tag() before their trace is stored."""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlflow_bridge import MLflowDSPyConfig, deliver_spool
from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import MLFLOW
from tests.support.mlflow_server import MLflowServer

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow.entities import Trace

pytestmark = pytest.mark.integration

PREAMBLE = """
import dspy
import mlflow
import mlflow_bridge
from dspy.utils import DummyLM

client = mlflow_bridge.autolog({settings})
dspy.configure(lm=DummyLM([{{"answer": "Tokyo"}}] * 50))
predict = dspy.Predict("question -> answer")
"""

ACTIVE = """
class Guarded(dspy.Module):
    def forward(self, question):
        answer = predict(question=question)
        trace_id = mlflow.get_active_trace_id()
        made = mlflow.log_feedback(trace_id=trace_id, name="guardrail", value=0.9, rationale="good")
        assert made.assessment_id and made.trace_id == trace_id
        mlflow.log_expectation(trace_id=trace_id, name="expected", value={"answer": "Tokyo"})
        mlflow.set_trace_tag(trace_id, "stage", "inside")
        mlflow.update_current_trace(
            metadata={"release": "7"}, client_request_id="r-1", request_preview="asked"
        )
        return answer


@mlflow.trace
def ask(question):
    answer = predict(question=question).answer
    span = mlflow.get_current_active_span()
    mlflow.log_feedback(
        trace_id=span.trace_id, span_id=span.span_id, name="thumbs", value=True,
        source=mlflow.entities.AssessmentSource("HUMAN", "ada"), metadata={"k": "v"},
    )
    return answer


Guarded()(question="a")
ask("b")
"""

AFTERWARDS = """
predict(question="c")
trace_id = mlflow.get_last_active_trace_id()
mlflow.log_feedback(trace_id=trace_id, name="late", value="fine")
mlflow.log_expectation(trace_id=trace_id, name="label", value=3)
mlflow.set_trace_tag(trace_id, "stage", "after")
mlflow.MlflowClient().set_trace_tag(trace_id, "by client", "yes")
mlflow.set_trace_tag(trace_id, "k" * 250, "v" * 9000)
"""


UNREACHED = """
import time

begun = time.monotonic()
predict(question="c")
trace_id = mlflow.get_last_active_trace_id()
mlflow.log_feedback(trace_id=trace_id, name="late", value="fine")
mlflow.set_trace_tag(trace_id, "stage", "after")
# MLflow's own client would repeat its requests for minutes.
assert time.monotonic() - begun < 60
"""

UNDONE = """
predict(question="c")
stored = mlflow.get_last_active_trace_id()
assert client.status() is not None
mlflow.flush_trace_async_logging()
made = mlflow.log_feedback(trace_id=stored, name="direct", value=1)
assert made.create_time_ms and len(mlflow.get_trace(stored).info.assessments) == 1
for unknown in ("tr-" + "0" * 31 + "1", "no-trace"):
    try:
        mlflow.log_feedback(trace_id=unknown, name="lost", value=1)
    except mlflow.MlflowException as error:
        assert "not found" in str(error), error
    else:
        raise AssertionError(unknown)
from mlflow.tracing.client import TracingClient
replaced = TracingClient.log_assessment, TracingClient.set_trace_tag
mlflow_bridge.disable_autolog()
assert not {*replaced} & {TracingClient.log_assessment, TracingClient.set_trace_tag}
assert TracingClient.log_assessment is replaced[0].__wrapped__
"""

FORKED = """
import os, sys

predict(question="parent")
pid = os.fork()
if pid == 0:
    predict(question="child")
    trace_id = mlflow.get_last_active_trace_id()
    mlflow.log_feedback(trace_id=trace_id, name="of the child", value=1)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
mlflow.log_feedback(trace_id=mlflow.get_last_active_trace_id(), name="of the parent", value=1)
"""


def run(
    source: str,
    tmp_path: Path,
    uri: str,
    experiment: str = "Default",
    settings: str = "",
) -> None:
    program = PREAMBLE.format(settings=f"experiment_name={experiment!r}, {settings}") + source
    done = run_program(program, tmp_path, {"MLFLOW_TRACKING_URI": uri}, zygote=MLFLOW)
    assert done.log_lines("Traceback") == [], done.stderr


@dataclass(frozen=True)
class Home:
    """A destination, and an experiment of the test's own in it."""

    uri: str
    experiment: str

    def traces(self) -> list[Trace]:
        return stored_traces(self.uri, self.experiment)

    def trace(self) -> Trace:
        [found] = self.traces()
        return found


@pytest.fixture(params=["store", "server"])
def home(request: pytest.FixtureRequest) -> Home:
    experiment = f"in flight {uuid.uuid4().hex[:8]}"
    if request.param == "store":
        return Home(request.getfixturevalue("store_uri"), experiment)
    return Home(request.getfixturevalue("shared_server").uri, experiment)


def values_of(trace: Trace) -> dict[str, Any]:
    return {each.name: getattr(each, "value", None) for each in trace.info.assessments}


def test_of_the_active_trace(home: Home, tmp_path: Path) -> None:
    run(ACTIVE, tmp_path, home.uri, home.experiment)
    by_name = {trace.info.tags["mlflow.traceName"]: trace for trace in home.traces()}
    guarded, asked = by_name["Guarded"], by_name["ask"]
    assert values_of(guarded) == {"guardrail": 0.9, "expected": {"answer": "Tokyo"}}
    assert guarded.info.tags["stage"] == "inside"
    assert guarded.info.trace_metadata["release"] == "7"
    assert (guarded.info.client_request_id, guarded.info.request_preview) == ("r-1", "asked")
    rationales = {each.name: each.rationale for each in guarded.info.assessments}
    assert rationales == {"guardrail": "good", "expected": None}
    [thumbs] = asked.info.assessments
    assert (thumbs.name, thumbs.source.source_type, thumbs.metadata) == (
        "thumbs",
        "HUMAN",
        {"k": "v"},
    )
    [root] = [span for span in asked.data.spans if span.parent_id is None]
    assert thumbs.span_id == root.span_id


def test_right_after_the_call(home: Home, tmp_path: Path) -> None:
    run(AFTERWARDS, tmp_path, home.uri, home.experiment)
    trace = home.trace()
    assert values_of(trace) == {"late": "fine", "label": 3}
    if home.uri.startswith("sqlite"):  # A server gets every number as a float.
        assert type(values_of(trace)["label"]) is int
    assert (trace.info.tags["stage"], trace.info.tags["by client"]) == ("after", "yes")
    assert "k" * 250 in trace.info.tags
    assert len(trace.data.spans) == 3


def test_while_mlflow_is_down(tmp_path: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    server = MLflowServer(tmp_path)
    home = Home(server.uri, "Default")
    config = MLflowDSPyConfig(tracking_uri=server.uri, spool_directory=tmp_path / "spool")
    settings = f"spool_directory={str(tmp_path / 'spool')!r}, exit_timeout_seconds=0.5"
    run(UNREACHED, tmp_path, home.uri, settings=settings)
    with server:
        # The next process delivers them, behind the spans of their trace.
        run("predict(question='next')", tmp_path, home.uri, settings=settings)
        deliver_spool(config=config)
        traces = {bool(trace.info.assessments): trace for trace in home.traces()}
    assert traces.keys() == {True, False}
    assert values_of(traces[True]) == {"late": "fine"}
    assert traces[True].info.tags["stage"] == "after"


def test_calls_for_other_traces_reach_mlflow_at_once(home: Home, tmp_path: Path) -> None:
    run(UNDONE, tmp_path, home.uri, home.experiment)
    assert values_of(home.trace()) == {"direct": 1}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_child_annotates_its_own_traces(home: Home, tmp_path: Path) -> None:
    run(FORKED, tmp_path, home.uri, home.experiment)
    found = [values_of(trace) for trace in home.traces()]
    assert sorted(found, key=str) == [{"of the child": 1}, {"of the parent": 1}]


REFUSING = """
import os
import signal
import threading
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

calls = []


def refusing(original):
    def method(self, *args, **kwargs):
        calls.append(None)
        if len(calls) % 2:
            raise mlflow.MlflowException("not this time")
        return original(self, *args, **kwargs)
    return method


for name in ("set_trace_tag", "delete_trace_tag", "create_assessment", "update_assessment"):
    setattr(SqlAlchemyStore, name, refusing(getattr(SqlAlchemyStore, name)))
predict(question="c")
trace_id = mlflow.get_last_active_trace_id()
mlflow.set_trace_tag(trace_id, "stage", "first")
made = mlflow.log_feedback(trace_id=trace_id, name="score", value=1)
mlflow.set_trace_tag(trace_id, "stage", "second")
from mlflow.entities import Feedback
mlflow.update_assessment(trace_id, made.assessment_id, Feedback(name="score", value=2))
mlflow.set_trace_tag(trace_id, "gone", "x")
mlflow.delete_trace_tag(trace_id, "gone")
"""

ENDINGS = {
    "exit": "",
    "disable": "mlflow_bridge.disable_autolog()",
    "sigterm": "os.kill(os.getpid(), signal.SIGTERM)\nthreading.Event().wait(60)",
}


@pytest.mark.parametrize("spool", [True, False])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_store_that_refuses_every_second_annotation(
    ending: str, spool: bool, store_uri: str, tmp_path: Path
) -> None:
    settings = f"spool={spool}, spool_directory={str(tmp_path / 'spool')!r}"
    source = PREAMBLE.format(settings=f"experiment_name='Default', {settings}") + REFUSING
    variables = {"MLFLOW_TRACKING_URI": store_uri, "MLFLOW_DSPY_FLUSH_ON_SIGTERM": "true"}
    script = f"{source}\n{ENDINGS[ending]}\n"
    if ending == "sigterm":
        with pytest.raises(AssertionError):  # It ends by the signal.
            run_program(script, tmp_path, variables, zygote=MLFLOW)
    else:
        run_program(script, tmp_path, variables, zygote=MLFLOW)
    config = MLflowDSPyConfig(tracking_uri=store_uri, spool_directory=tmp_path / "spool")
    if spool:
        deliver_spool(config=config)
    [trace] = stored_traces(store_uri)
    assert values_of(trace) == {"score": 2}
    assert trace.info.tags["stage"] == "second"
    assert "gone" not in trace.info.tags


FIRST_USE = """
import sqlite3
import time
from pathlib import Path

file = Path({file!r})
{before}
begun = time.monotonic()
for number in range(2):
    predict(question="c")
    trace_id = mlflow.get_last_active_trace_id()
    made = mlflow.log_feedback(trace_id=trace_id, name="late", value=number)
    mlflow.update_assessment(
        trace_id, made.assessment_id, mlflow.entities.Feedback(name="late", value=number + 10)
    )
    mlflow.set_trace_tag(trace_id, "stage", "after")
    mlflow.set_trace_tag(trace_id, "gone", "after")
    mlflow.delete_trace_tag(trace_id, "gone")
# MLflow's own client would try for minutes to open the database.
assert time.monotonic() - begun < 5, time.monotonic() - begun
{meanwhile}
"""

DOWN = {
    "not there": ("file.parent.write_text('')", "time.sleep(2)\nfile.parent.unlink()"),
    "locked": (
        "connection = sqlite3.connect(file, check_same_thread=False)\n"
        "connection.execute('BEGIN EXCLUSIVE')",
        "time.sleep(2)\nconnection.rollback()\nconnection.close()",
    ),
    "not created": ("file.parent.mkdir()", ""),
    "damaged": (
        "file.parent.mkdir()\nfile.write_bytes(b'no database' * 1000)",
        "time.sleep(2)\nfile.unlink()",
    ),
}


@pytest.mark.parametrize("state", DOWN)
def test_a_database_that_is_down_at_the_first_use(
    state: str, empty_store: Path, tmp_path: Path
) -> None:
    file = tmp_path / "later" / "mlflow.db"
    if state == "locked":
        file.parent.mkdir()
        shutil.copyfile(empty_store, file)
    before, meanwhile = DOWN[state]
    source = FIRST_USE.format(file=str(file), before=before, meanwhile=meanwhile)
    uri = f"sqlite:///{file}"
    settings = f"spool_directory={str(tmp_path / 'spool')!r}"
    run(source, tmp_path, uri, settings=settings)
    config = MLflowDSPyConfig(tracking_uri=uri, spool_directory=tmp_path / "spool")
    deliver_spool(config=config)
    traces = stored_traces(uri)
    assert sorted(values_of(trace)["late"] for trace in traces) == [10, 11]
    assert [trace.info.tags["stage"] for trace in traces] == ["after"] * 2
    assert not any("gone" in trace.info.tags for trace in traces)
