# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs below a span that is not theirs: of a web framework, of the program, of ``Parallel``."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.integration.traced_program import run_program, stored_traces
from tests.support.children import MLFLOW

pytest.importorskip("mlflow", reason="needs the extra mlflow")
pytest.importorskip("fastapi", reason="a part of MLflow's server")

from mlflow.genai.utils.trace_utils import extract_inputs_from_trace, extract_outputs_from_trace

pytestmark = pytest.mark.integration

EXPERIMENT = "web roots"
SETUP = f"""
import dspy
from dspy.utils import DummyLM
from mlflow_bridge import autolog, trace_context

client = autolog(experiment_name={EXPERIMENT!r})
dspy.configure(lm=DummyLM([{{"answer": "fine"}}] * 20), adapter=dspy.ChatAdapter())
program = dspy.Predict("question -> answer")
tracer = trace.get_tracer("app")


class Service:
    # What an instrumentation of a web framework does, without a port.
    def ask(self, question):
        from fastapi import FastAPI
        from fastapi.testclient import TestClient

        app = FastAPI()

        @app.get("/ask")
        def ask(q: str):
            return program(question=q).answer

        with tracer.start_as_current_span("GET /ask", kind=trace.SpanKind.SERVER):
            assert TestClient(app).get("/ask", params={{"q": question}}).json() == "fine"


"""
ASKED, ANSWERED = {"question": "hi"}, {"answer": "fine"}
LISTED = ({"inputs": [{"question": "a"}, {"question": "b"}]}, [ANSWERED, ANSWERED])


@pytest.fixture(params=["store", "server"])
def uri(request: pytest.FixtureRequest) -> str:
    if request.param == "store":
        return str(request.getfixturevalue("store_uri"))
    return str(request.getfixturevalue("shared_server").uri)


def traces_of(source: str, directory: Path, uri: str, **variables: str) -> list[Any]:
    """The new traces of the program in the experiment, the oldest first."""
    before = {trace.info.trace_id for trace in stored_traces(uri, EXPERIMENT)}
    environment = {"MLFLOW_TRACKING_URI": uri, **variables}
    run_program(SETUP + source, directory, environment, zygote=MLFLOW)
    found = stored_traces(uri, EXPERIMENT)
    new = [trace for trace in found if trace.info.trace_id not in before]
    # With all traces, FastAPI has some that have no program.
    return [each for each in new if any("workflow" in span.name for span in each.data.spans)]


@pytest.mark.parametrize("traces", ["genai", "all"])
def test_a_trace_shows_the_values_of_the_program(tmp_path: Path, uri: str, traces: str) -> None:
    source = """
with tracer.start_as_current_span("answer request"):
    program(question="hi")
Service().ask("hi")
dspy.Parallel(num_threads=2, disable_progress_bar=True)(
    [(program, dspy.Example(question=q).with_inputs("question")) for q in "ab"])
program.batch([dspy.Example(question=q).with_inputs("question") for q in "ab"],
              disable_progress_bar=True)
"""
    found = traces_of(source, tmp_path, uri, MLFLOW_DSPY_TRACES=traces)
    shown = [(extract_inputs_from_trace(one), extract_outputs_from_trace(one)) for one in found]
    assert shown == [(ASKED, ANSWERED), (ASKED, ANSWERED), LISTED, LISTED]
    previews = [(one.info.request_preview, one.info.response_preview) for one in found]
    assert [(json.loads(a), json.loads(b)) for a, b in previews] == shown
    hashes = {one.info.tags["dspy.program.hash"] for one in found}
    assert [len(each) for each in hashes] == [12]
    assert {one.info.tags["dspy.version"] for one in found} == {version("dspy")}


def test_values_of_a_block_below_a_root_reach_the_trace(tmp_path: Path, uri: str) -> None:
    source = """
import mlflow
mlflow.set_experiment("web roots")
with mlflow.start_run() as run:
    pass
with tracer.start_as_current_span("GET /ask"), tracer.start_as_current_span("handler"):
    with trace_context(session_id="s", user_id="u", tags={"team": "a"}, run_id=run.info.run_id):
        program(question="hi")
try:
    with trace_context(experiment_id="team-a"):
        raise AssertionError
except ValueError as error:
    print(error)
"""
    [trace] = traces_of(source, tmp_path, uri)
    metadata = trace.info.trace_metadata
    assert (metadata["mlflow.trace.session"], metadata["mlflow.trace.user"]) == ("s", "u")
    assert trace.info.tags["team"] == "a"
    client = pytest.importorskip("mlflow").MlflowClient(uri)
    [run] = client.search_runs([trace.info.experiment_id])
    linked = client.search_traces(
        locations=[trace.info.experiment_id], run_id=run.info.run_id, include_spans=False
    )
    assert [each.info.trace_id for each in linked] == [trace.info.trace_id]


def test_messages_of_a_stream_are_left_out(tmp_path: Path, uri: str) -> None:
    source = """
asgi = trace.get_tracer("opentelemetry.instrumentation.asgi")
with asgi.start_as_current_span("GET /ask", kind=trace.SpanKind.SERVER):
    program(question="hi")
    for _ in range(20):
        asgi.start_span("http send", attributes={"asgi.event.type": "http.response.body"}).end()
"""
    [trace] = traces_of(source, tmp_path, uri)
    assert "http send" not in {span.name for span in trace.data.spans}
    assert extract_inputs_from_trace(trace) == ASKED


def test_a_forked_worker_shows_the_values_of_its_own_programs(tmp_path: Path, uri: str) -> None:
    source = """
import multiprocessing
from opentelemetry.context import Context, attach

def work():
    attach(Context())
    for question in ("worker, one", "worker, two"):
        with tracer.start_as_current_span("GET /ask", kind=trace.SpanKind.SERVER):
            program(question=question)

with tracer.start_as_current_span("GET /ask", kind=trace.SpanKind.SERVER):
    program(question="parent")
    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
"""
    found = traces_of(source, tmp_path, uri)
    shown = [(extract_inputs_from_trace(one), extract_outputs_from_trace(one)) for one in found]
    questions = ("parent", "worker, one", "worker, two")
    assert shown == [({"question": question}, ANSWERED) for question in questions]


def test_a_root_in_a_parent_does_not_wait_for_the_programs_of_a_child(
    tmp_path: Path, uri: str
) -> None:
    source = """
import multiprocessing

with tracer.start_as_current_span("batch job"):
    program(question="parent")
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=program, kwargs={"question": "child"})
    child.start()
    child.join()
    assert child.exitcode == 0
"""
    [trace] = traces_of(source, tmp_path, uri)
    assert extract_inputs_from_trace(trace) == {"question": "parent"}
    assert extract_outputs_from_trace(trace) == ANSWERED
    asked = [span.inputs["question"] for span in trace.data.spans if "workflow" in span.name]
    assert sorted(asked) == ["child", "parent"]


INSTRUMENTED = """
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

app = FastAPI()

@app.get("/ask")
def ask(q: str):
    return program(question=q).answer

@app.get("/ask-async")
async def ask_async(q: str):
    return (await program.acall(question=q)).answer

@app.get("/stream")
async def stream(q: str):
    async def chunks():
        answer = (await program.acall(question=q)).answer
        for letter in answer:
            yield letter
    return StreamingResponse(chunks())

@app.get("/fail")
def fail(q: str):
    program(question=q)
    raise LookupError("no such page")

FastAPIInstrumentor.instrument_app(app)
web = TestClient(app, raise_server_exceptions=False)
"""


def test_the_spans_of_fastapis_instrumentation_show_the_values_of_the_program(
    tmp_path: Path, uri: str
) -> None:
    pytest.importorskip("opentelemetry.instrumentation.fastapi", reason="not installed")
    states = {"/ask": "OK", "/ask-async": "OK", "/stream": "OK", "/fail": "ERROR"}
    asked = [f"web.get({path!r}, params={{'q': 'hi'}})" for path in states]
    found = traces_of("\n".join([INSTRUMENTED, *asked]), tmp_path, uri)
    roots = [span for trace in found for span in trace.data.spans if span.parent_id is None]
    assert [root.name for root in roots] == [f"GET {path}" for path in states]
    assert [trace.info.state for trace in found] == list(states.values())
    shown = [(extract_inputs_from_trace(one), extract_outputs_from_trace(one)) for one in found]
    assert shown == [(ASKED, ANSWERED)] * len(states)
    previews = [(one.info.request_preview, one.info.response_preview) for one in found]
    assert [(json.loads(a), json.loads(b)) for a, b in previews] == shown
    names = {span.name for trace in found for span in trace.data.spans}
    assert [name for name in names if "http send" in name or "http receive" in name] == []
