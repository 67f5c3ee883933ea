# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""MLflow's own tracing around and inside of DSPy calls: one trace, each span once."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.traced_program import (
    Finished,
    run_program,
    span_names,
    stored_traces,
)
from tests.support.children import MLFLOW
from tests.support.fake_openai import FakeOpenAI
from tests.support.mlflow_server import mlflow_store

pytest.importorskip("mlflow", reason="needs the extra mlflow")

from mlflow.entities import Trace

pytestmark = pytest.mark.integration

PROGRAM = """
import dspy
import mlflow
import mlflow_bridge
import openai
from opentelemetry import trace

mlflow_bridge.autolog()
mlflow.openai.autolog()
tracer = trace.get_tracer("application")
client = openai.OpenAI(base_url={base_url!r}, api_key="test")
lm = dspy.LM("openai/gpt-4o-mini", api_base={base_url!r}, api_key="test", cache=False)
dspy.configure(lm=lm)


@mlflow.trace(span_type="CHAIN", attributes={{"team": "search"}})
def serve(question):
    with mlflow.start_span("look up") as span:
        span.set_inputs({{"q": question}})
        span.set_outputs(["doc"])
    return dspy.Predict("question -> answer")(question=question).answer


class RAG(dspy.Module):
    def forward(self, question):
        with mlflow.start_span("search", span_type="RETRIEVER"):
            with tracer.start_as_current_span("GET /search"):
                with mlflow.start_span("rank"):
                    pass
        mlflow.update_current_trace(
            tags={{"channel": "web"}}, metadata={{"release": "7"}}, session_id="s1", user="u1"
        )
        mlflow.get_current_active_span().set_attribute("noted", "yes")
        return dspy.Prediction(answer=question)


class OwnLM(dspy.BaseLM):
    def forward(self, prompt=None, messages=None, **kwargs):
        return client.chat.completions.create(model="gpt-4o-mini", messages=messages)


serve("Capital of France?")
with tracer.start_as_current_span("POST /ask"):
    RAG()(question="Capital of France?")
assert mlflow.get_current_active_span() is None
mlflow.flush_trace_async_logging()
trace_id = mlflow.get_last_active_trace_id()
print(trace_id, len(mlflow.get_trace(trace_id).data.spans))
with dspy.context(lm=OwnLM("own")), tracer.start_as_current_span("own client"):
    dspy.Predict("question -> answer")(question="Capital of France?")
"""


def run(source: str, tmp_path: Path, store_uri: str) -> Finished:
    done = run_program(source, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}, zygote=MLFLOW)
    assert done.log_lines("Traceback") == done.log_lines("detach") == [], done.stderr
    return done


@dataclass(frozen=True)
class Stored:
    """What MLflow has of one run of `PROGRAM`: the traces by name, and what it printed."""

    traces: Mapping[str, Trace]
    stdout: str


@pytest.fixture(scope="module")
def stored(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    directory = tmp_path_factory.mktemp("joint")
    shutil.copyfile(empty_store, directory / "mlflow.db")
    uri = mlflow_store(directory)
    with FakeOpenAI() as server:
        done = run(PROGRAM.format(base_url=server.base_url), directory, uri)
    traces = stored_traces(uri)
    assert len(traces) == 3
    return Stored({trace.info.tags["mlflow.traceName"]: trace for trace in traces}, done.stdout)


def tree(trace: Trace) -> dict[str, str | None]:
    """Each span's parent, by name."""
    names = {span.span_id: span.name for span in trace.data.spans}
    repeated = [name for name, count in Counter(names.values()).items() if count > 1]
    assert repeated == []
    return {span.name: names.get(span.parent_id or "") for span in trace.data.spans}


def only(traces: list[Trace]) -> Trace:
    assert len(traces) == 1, [tree(trace) for trace in traces]
    return traces[0]


def test_decorated_function_around_a_program(stored: Stored) -> None:
    trace = stored.traces["serve"]
    assert tree(trace) == {
        "serve": None,
        "look up": "serve",
        "invoke_workflow Predict question -> answer": "serve",
        "ChatAdapter": "invoke_workflow Predict question -> answer",
        "chat gpt-4o-mini": "ChatAdapter",
    }
    spans = {span.name: span for span in trace.data.spans}
    assert spans["serve"].span_type == "CHAIN"
    assert spans["serve"].inputs == {"question": "Capital of France?"}
    assert isinstance(spans["serve"].outputs, str)
    assert spans["serve"].get_attribute("team") == "search"
    assert spans["look up"].inputs == {"q": "Capital of France?"}
    assert spans["look up"].outputs == ["doc"]
    assert trace.info.state.value == "OK"
    assert trace.info.token_usage is not None


def test_mlflow_spans_inside_of_a_program_and_between_other_spans(stored: Stored) -> None:
    trace = stored.traces["POST /ask"]
    assert tree(trace) == {
        "POST /ask": None,
        "invoke_workflow RAG": "POST /ask",
        "search": "invoke_workflow RAG",
        "GET /search": "search",
        "rank": "GET /search",
    }
    types = {span.name: span.span_type for span in trace.data.spans}
    assert (types["search"], types["invoke_workflow RAG"]) == ("RETRIEVER", "CHAIN")
    assert types["GET /search"] == types["rank"] == "UNKNOWN"


def test_what_mlflow_functions_say_about_the_current_trace(stored: Stored) -> None:
    trace = stored.traces["POST /ask"]
    [rag] = [span for span in trace.data.spans if span.name == "invoke_workflow RAG"]
    assert rag.get_attribute("noted") == "yes"
    assert trace.info.tags["channel"] == "web"
    assert trace.info.trace_metadata["release"] == "7"
    assert trace.info.trace_metadata["mlflow.trace.session"] == "s1"
    assert trace.info.trace_metadata["mlflow.trace.user"] == "u1"
    assert stored.stdout.split() == [trace.info.trace_id, "5"]


def test_openai_autologging_inside_of_a_program_counts_no_token_twice(stored: Stored) -> None:
    trace = stored.traces["own client"]
    assert tree(trace)["Completions"] == "chat own"
    # One call, as DSPy's span tells it and as MLflow's span below it does.
    spans = {span.name: span for span in trace.data.spans}
    told = [
        (spans[name].get_attribute("mlflow.chat.tokenUsage") or {}).get("total_tokens")
        for name in ("chat own", "Completions")
    ]
    assert told[0] == told[1] is not None
    assert (trace.info.token_usage or {})["total_tokens"] == told[0]
    assert (trace.info.cost or {})["total_cost"] == pytest.approx(
        (spans["Completions"].llm_cost or {})["total_cost"]
    )


def test_mlflow_traces_without_any_dspy_are_delivered_until_it_is_disabled(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
    import asyncio
    import mlflow
    import mlflow_bridge

    mlflow_bridge.autolog()

    @mlflow.trace
    async def step(number):
        await asyncio.sleep(0)
        if number == 3:
            raise ValueError("three")
        return number

    @mlflow.trace
    async def everything():
        return await asyncio.gather(*map(step, range(5)), return_exceptions=True)

    asyncio.run(everything())
    @mlflow.trace
    def counted():
        yield from range(3)
    list(counted())

    mlflow_bridge.disable_autolog()
    with mlflow.start_span("apart"):
        work("nobody's")
    mlflow.flush_trace_async_logging()
    """
    run(source, tmp_path, store_uri)
    traces = {trace.info.tags["mlflow.traceName"]: trace for trace in stored_traces(store_uri)}
    assert traces.keys() == {"everything", "counted", "apart"}
    spans = traces["everything"].data.spans
    assert sorted(span.name for span in spans) == ["everything", *["step"] * 5]
    [failed] = [span for span in spans if span.status.status_code.value == "ERROR"]
    assert failed.inputs == {"number": 3}
    [generator] = traces["counted"].data.spans
    assert generator.outputs == [0, 1, 2]
    assert tree(traces["apart"]) == {"apart": None}


def test_autolog_inside_of_a_span_of_mlflows_changes_nothing(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
    import mlflow
    import mlflow_bridge

    with mlflow.start_span("outer"):
        mlflow_bridge.autolog()
    mlflow.flush_trace_async_logging()
    """
    done = run(source, tmp_path, store_uri)
    assert len(done.log_lines("stays apart")) == 1
    assert tree(only(stored_traces(store_uri))) == {"outer": None}


def test_a_program_that_has_chosen_keeps_its_choice(store_uri: str, tmp_path: Path) -> None:
    source = """
    import os

    os.environ["MLFLOW_USE_DEFAULT_TRACER_PROVIDER"] = "true"
    import mlflow
    import mlflow_bridge

    mlflow_bridge.autolog()
    with mlflow.start_span("apart"):
        work("ours")
    mlflow.flush_trace_async_logging()
    """
    run(source, tmp_path, store_uri)
    assert sorted(len(tree(trace)) for trace in stored_traces(store_uri)) == [1, 2]


def test_under_opentelemetry_instrument(store_uri: str, tmp_path: Path) -> None:
    source = """
    import mlflow

    with mlflow.start_span("outer"):
        work("ours")
    """
    environment = {"OTEL_TRACES_EXPORTER": "mlflow", "MLFLOW_TRACKING_URI": store_uri}
    run_program(source, tmp_path, environment, zero_code=True, zygote=MLFLOW)
    assert tree(only(stored_traces(store_uri))) == {
        "outer": None,
        "ours": "outer",
        "ours step": "ours",
    }


def test_a_fork_in_the_middle_of_a_span_hangs_nobody(store_uri: str, tmp_path: Path) -> None:
    source = """
    import os
    import threading
    import mlflow
    import mlflow_bridge

    mlflow_bridge.autolog()
    held, forked = threading.Event(), threading.Event()

    def hold_the_register():
        from mlflow.tracing.trace_manager import InMemoryTraceManager
        with InMemoryTraceManager.get_instance().get_trace("any"):
            held.set()
            forked.wait()

    holder = threading.Thread(target=hold_the_register)
    holder.start()
    held.wait()
    child = os.fork()
    if child == 0:
        with mlflow.start_span("in the child"):
            work("ours")
        mlflow.flush_trace_async_logging()
        os._exit(0)
    forked.set()
    holder.join()
    assert os.waitpid(child, 0)[1] == 0
    """
    run(source, tmp_path, store_uri)
    assert tree(only(stored_traces(store_uri))).keys() == {"in the child", "ours", "ours step"}


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("is_disabled_before", [False, True])
def test_mlflows_switch_stops_and_resumes_the_bridge(
    store_uri: str, tmp_path: Path, separate: bool, is_disabled_before: bool
) -> None:
    source = f"""
        import os
        if {separate}:
            os.environ["MLFLOW_USE_DEFAULT_TRACER_PROVIDER"] = "true"
        import mlflow
        import mlflow_bridge

        if {is_disabled_before}:
            mlflow.tracing.disable()
        client = mlflow_bridge.autolog()
        work("at first")
        with trace.get_tracer("program").start_as_current_span("open"):
            if not {is_disabled_before}:
                mlflow.tracing.disable()
            work("inside of a trace that is open")
        work("while disabled")
        mlflow.tracing.enable()
        work("enabled again")
        mlflow.tracing.disable()
        mlflow_bridge.disable_autolog()
        mlflow.tracing.enable()
        mlflow_bridge.autolog()
        work("of a new start")
        """
    run(source, tmp_path, store_uri)
    names = {name for found in stored_traces(store_uri) for name in span_names(found)}
    while_on = {"at first", "open", "inside of a trace that is open"}
    always = {"enabled again", "of a new start"}
    roots = always if is_disabled_before else always | while_on
    steps = {f"{name} step" for name in roots if name != "open"}
    assert names == roots | steps


def test_mlflow_never_takes_the_global_provider_away(store_uri: str, tmp_path: Path) -> None:
    source = """
        import mlflow
        import mlflow_bridge
        from mlflow.tracing.provider import trace_disabled

        mlflow_bridge.autolog()
        provider = trace.get_tracer_provider()

        @mlflow.trace
        def own(name):
            work(name)

        own("at first")
        mlflow.set_experiment("another")
        own("after set_experiment")
        mlflow.tracing.disable()
        own("while disabled")
        mlflow.tracing.enable()
        own("enabled again")
        trace_disabled(own)("while a model is saved")
        own("at last")
        assert trace.get_tracer_provider() is provider
    """
    run(source, tmp_path, store_uri)
    names = [span_names(found) for found in stored_traces(store_uri)]
    hidden = {"while a model is saved"}
    shown = {"at first", "after set_experiment", "enabled again", "at last"}
    assert sorted(map(sorted, names)) == sorted(
        [
            *(sorted({name, f"{name} step"}) for name in hidden),
            *(sorted({"own", name, f"{name} step"}) for name in shown),
        ]
    )
