# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Finished traces: the same from spans, from a file and from MLflow; found again in MLflow."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
import requests
from dspy.utils import DummyLM
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Status, StatusCode

from mlflow_bridge import ConfigurationError, FinishedTrace
from mlflow_bridge._spans.otlp_json.encoder import line_of
from mlflow_bridge.traces import get_traces
from tests.integration.place import Place
from tests.integration.traced_program import run_program
from tests.support.children import MLFLOW
from tests.support.dspy_spans import Recorder, json_of, lm_attributes
from tests.support.traced import Traced, uninstrument

pytest.importorskip("mlflow", reason="needs the extra mlflow")

pytestmark = pytest.mark.integration


@pytest.fixture
def traced() -> Iterator[Traced]:
    yield Traced()
    uninstrument()


def check_that_all_are_equal(place: Place, spans: list[ReadableSpan]) -> FinishedTrace:
    """Store a trace, and compare what is read from MLflow with what is read from the spans."""
    live = FinishedTrace.from_spans(spans)
    place.store(spans)
    stored = place.trace()
    read = {
        "a line of OTLP JSON": FinishedTrace.from_otlp_json(line_of(spans)),
        "lines of OTLP JSON": FinishedTrace.from_otlp_json([line_of([span]) for span in spans]),
        "MLflow": FinishedTrace.from_mlflow(stored),
        "MLflow's mapping": FinishedTrace.from_mlflow(stored.to_dict()),
        "MLflow's JSON": FinishedTrace.from_mlflow(stored.to_json()),
    }
    uri = place.config.tracking_uri
    if uri.startswith("http"):
        answer = requests.get(
            f"{uri}/api/3.0/mlflow/traces/get", params={"trace_id": live.id}, timeout=300
        )
        read["an answer of the server"] = FinishedTrace.from_mlflow(answer.text)
    for source, found in read.items():
        assert_equal(live, found, source)
    return live


def assert_equal(live: FinishedTrace, found: FinishedTrace, source: str) -> None:
    assert len(live.spans) == len(found.spans), source
    for one, other in zip(live.spans, found.spans, strict=True):
        for field in one:
            assert (one[field], type(one[field])) == (other[field], type(other[field])), (
                f"{field} of the span {one.name!r} from {source}"
            )
    for field in live:
        assert live[field] == found[field], f"{field} from {source}"
    assert live == found


PARTS = {
    "session.id": "chat-7",
    "user.id": "ada",
    "mlflow.traceTag.channel": "web",
    "dspy.program.hash": "abc",
}


def test_a_program_is_the_same_from_everywhere(place: Place) -> None:
    live = check_that_all_are_equal(place, place.recorder.rag(PARTS))
    assert (live.tokens["total"], live.cost, live.tags["channel"]) == (120, 0.0012, "web")


def test_a_failure_is_the_same_from_everywhere(place: Place) -> None:
    live = check_that_all_are_equal(place, place.recorder.failed())
    assert (live.status, live.error) == ("ERROR", "no such field")


def strange(recorder: Recorder) -> list[ReadableSpan]:
    attributes: dict[str, Any] = {
        "text": "007",
        "json text": '{"a": [1, 2.5, null, true]}',
        "quoted": '"q"',
        "json in json": '"{\\"a\\": 1}"',
        "whole": 5,
        "float": 1.0,
        "not a number": float("nan"),
        "long": 2**70,
        "truth": True,
        "numbers": [1, 2],
        "texts": ["a", '{"b": 1}'],
        "empty": [],
        "no text": "",
        "snow": "☃ 東京",
        "surrogate": "a\ud800b",
        "dspy.module.input": "just text",
        "dspy.module.output": json_of([1, {"a": None}]),
        "dspy.operation": "module",
        "dspy.module.type": "Strange",
    }
    with recorder.tracer.start_as_current_span("strange", attributes=attributes) as root:
        root.add_event("gen_ai.evaluation.result", {"score": 0.5, "json": '{"a": 1}', "n": (1, 2)})
        step = recorder.tracer.start_span("step")
        step.set_status(Status(StatusCode.ERROR))
        step.record_exception(ValueError("äh"))
        step.end()
    return recorder.take()


def test_values_of_every_kind_are_the_same_from_everywhere(place: Place) -> None:
    live = check_that_all_are_equal(place, strange(place.recorder))
    assert live.inputs == {"inputs": "just text"}
    assert live.outputs == {"outputs": [1, {"a": None}]}
    assert live.root.attributes["json text"] == {"a": [1, 2.5, None, True]}
    assert live.spans[1].error == "ValueError: äh"


def test_parents_that_repeat_their_children_are_the_same_from_everywhere(place: Place) -> None:
    tracer = place.recorder.tracer
    usage = {"gen_ai.usage.input_tokens": 300, "gen_ai.usage.output_tokens": 60}
    with (
        tracer.start_as_current_span("root"),
        tracer.start_as_current_span(
            "agent", attributes={"gen_ai.operation.name": "plan", **usage}
        ),
    ):
        tracer.start_span("chat", attributes=lm_attributes()).end()
        # MLflow estimates a cost for this model, which no library has reported.
        tracer.start_span("chat", attributes=lm_attributes(dspy__lm__cost__total=None)).end()
    live = check_that_all_are_equal(place, place.recorder.take())
    assert (live.tokens["total"], live.cost) == (360, 0.0012)
    assert place.trace().info.token_usage == {
        "input_tokens": 300,
        "output_tokens": 60,
        "total_tokens": 360,
    }


def test_a_root_with_lent_values_is_the_same_from_everywhere(place: Place) -> None:
    recorder = place.recorder
    with recorder.provider.get_tracer("fastapi").start_as_current_span("POST /ask"):
        module = {
            "dspy.operation": "module",
            "dspy.module.type": "RAG",
            "dspy.module.input": json_of({"question": "Why?"}),
            "dspy.module.output": json_of({"answer": "So."}),
        }
        recorder.tracer.start_span("invoke_workflow RAG", attributes=module).end()
    live = check_that_all_are_equal(place, recorder.take())
    assert (live.inputs, live.outputs) == ({"question": "Why?"}, {"answer": "So."})


def test_metadata_and_state_are_the_same_from_everywhere(place: Place) -> None:
    own = {
        "mlflow_bridge.trace_metadata.release": "7",
        "mlflow_bridge.trace_metadata.team": "search",
        "mlflow_bridge.trace_state": "ERROR",
        "session.id": '["a", "b"]',
    }
    live = check_that_all_are_equal(place, place.recorder.rag(own))
    assert live.metadata == {"release": "7", "team": "search"}
    assert (live.status, live.root.status, live.session_id) == ("ERROR", "OK", '["a", "b"]')


def look_up(city: str) -> str:
    """Looks a city up."""
    return f"{city} is large"


def test_an_agent_of_dspy_is_the_same_from_everywhere(place: Place, traced: Traced) -> None:
    answers = [
        {
            "next_thought": "Look.",
            "next_tool_name": "look_up",
            "next_tool_args": {"city": "Tokyo"},
        },
        {"next_thought": "Done.", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": "It says so.", "answer": "large"},
    ]
    agent = dspy.ReAct("question -> answer", tools=[look_up], max_iters=3)
    with dspy.context(lm=DummyLM(answers), adapter=dspy.ChatAdapter()):
        agent(question="How large is Tokyo?")
    live = check_that_all_are_equal(place, traced.spans)
    assert (live.module, live.inputs) == ("ReAct", {"question": "How large is Tokyo?"})
    assert live.find("look_up").inputs == {"city": "Tokyo"}
    assert live.find("extract").module == "ChainOfThought"
    assert live.program_hash


def test_a_pickled_trace_of_mlflow_needs_no_mlflow(place: Place) -> None:
    place.store(place.recorder.rag(PARTS))
    found = FinishedTrace.from_mlflow(place.trace())
    assert b"mlflow.entities" not in (pickled := pickle.dumps(found))
    assert pickle.loads(pickled) == found


def search(place: Place, **options: Any) -> list[FinishedTrace]:
    options.setdefault("experiment", place.config.experiment_name)
    return list(get_traces(tracking_uri=place.config.tracking_uri, **options))


def test_traces_are_found_with_the_newest_first(place: Place) -> None:
    spans = [
        span for index in range(130) for span in place.recorder.many(1, lambda _, i=index: f"t{i}")
    ]
    place.store(spans)
    found = search(place)
    starts = [one.start_time_ns // 1_000_000 for one in found]
    assert starts == sorted(starts, reverse=True)
    assert {one.name for one in found} == {f"t{index}" for index in range(130)}
    assert len(search(place, limit=7)) == 7
    assert len(search(place, since="1h", limit=105)) == 105
    assert search(place, filter_string="trace.name = 't77'")[0].name == "t77"
    assert search(place, since="2100-01-01") == []


def test_mistakes_in_a_search_name_the_argument(place: Place) -> None:
    place.store(place.recorder.rag())
    with pytest.raises(ConfigurationError, match=r"'spans.name'.*accepted: span.name"):
        search(place, filter_string="spans.name = 'search'")
    with pytest.raises(ConfigurationError, match=r"filter_string of get_traces.*accepted: "):
        search(place, filter_string="trace.status = 'OK' OR trace.status = 'ERROR'")
    with pytest.raises(ConfigurationError, match="no such experiment"):
        search(place, experiment="of nobody")
    with pytest.raises(ConfigurationError, match="run_id of get_traces"):
        search(place, run_id="0" * 32, experiment=None)
    assert len(search(place, filter_string="span.name = 'search'")) == 1


def test_a_run_has_its_traces(place: Place) -> None:
    experiment = place.client.create_experiment(str(place.config.experiment_name))
    run = place.client.create_run(experiment)
    place.store(place.recorder.rag({"mlflow.sourceRun": run.info.run_id}))
    place.store(place.recorder.failed())
    [found] = search(place, run_id=run.info.run_id, experiment=None)
    assert found.module == "RAG"


def test_a_client_gives_traces_to_processors_and_finds_them_in_mlflow(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
        import asyncio
        import dspy
        from dspy.utils import DummyLM
        from mlflow_bridge import autolog

        class RAG(dspy.Module):
            def __init__(self):
                super().__init__()
                self.generate = dspy.Predict("question -> answer")

            def forward(self, question):
                return self.generate(question=question)

            async def aforward(self, question):
                return await self.generate.acall(question=question)

        client = autolog(experiment_name="finished")
        given = []

        def judge(found):
            given.append(found)
            program(question="Is it true?")  # its own calls make no trace

        client.add_trace_processor(judge)
        program = RAG()
        dspy.configure(lm=DummyLM([{"answer": "So."}] * 10), adapter=dspy.ChatAdapter())
        program(question="Why?")
        asyncio.run(program.acall(question="How?"))
        trace.get_tracer("web").start_span("health check").end()
        found = list(client.get_traces(since="1h"))
        assert client.trace_processor_status()[0].failed == 0
        by_id = {one.id: one for one in found}
        assert {one.id: one for one in given} == by_id, (given, found)
        for one in given:
            print(one.module, one.inputs["question"], one.find("generate").outputs["answer"])
    """
    done = run_program(
        source,
        tmp_path,
        {"MLFLOW_TRACKING_URI": store_uri, "MLFLOW_DSPY_TRACES": "genai"},
        zygote=MLFLOW,
    )
    assert done.stdout.splitlines() == ["RAG Why? So.", "RAG How? So."]
    assert done.log_lines("WARNING") == []


def test_what_ended_is_given_out_at_the_exit(store_uri: str, tmp_path: Path) -> None:
    source = """
        import time
        from mlflow_bridge import autolog

        def slow(trace):
            time.sleep(0.05)
            print(trace.name, flush=True)

        autolog(traces="all").add_trace_processor(slow)
        for index in range(5):
            work(f"trace {index}")
    """
    done = run_program(source, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}, zygote=MLFLOW)
    assert done.stdout.splitlines() == [f"trace {index}" for index in range(5)]


def test_under_opentelemetry_instrument_processors_get_the_traces(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
        from mlflow_bridge import autolog

        client = autolog(traces="all")
        given = []
        client.add_trace_processor(given.append)
        work("only")
        assert client.flush(60)
        print(*[trace.name for trace in given])
        [found] = client.get_traces()
        assert found == given[0]
    """
    environment = {"OTEL_TRACES_EXPORTER": "mlflow", "MLFLOW_TRACKING_URI": store_uri}
    done = run_program(source, tmp_path, environment, zero_code=True, zygote=MLFLOW)
    assert done.stdout.split() == ["only"]


def test_spans_of_mlflows_own_tracing_are_the_same_from_everywhere(
    store_uri: str, tmp_path: Path
) -> None:
    source = """
        import dspy
        import mlflow
        from dspy.utils import DummyLM
        from mlflow_bridge import autolog

        client = autolog()
        given = []
        client.add_trace_processor(given.append)
        program = dspy.Predict("question -> answer")
        dspy.configure(lm=DummyLM([{"answer": "So."}] * 10), adapter=dspy.ChatAdapter())

        @mlflow.trace(span_type="AGENT", attributes={"a": [1, 2], "b": {"c": None}})
        def serve(question, limit=None):
            mlflow.update_current_trace(tags={"channel": "web"})
            return program(question=question).answer

        @mlflow.trace
        def fail():
            raise ValueError("no")

        serve("Why?")
        try:
            fail()
        except ValueError:
            pass
        [failed, served] = client.get_traces()
        if served.name != "serve":
            failed, served = served, failed
        one, other = given
        for live, stored in ((one, served), (other, failed)):
            for field in live:
                if field != "spans":
                    assert live[field] == stored[field], (field, live[field], stored[field])
            for span, found in zip(live.spans, stored.spans, strict=True):
                for field in span:
                    assert span[field] == found[field], (field, span[field], found[field])
        print(one.name, one.module, one.inputs["question"], one.outputs, one.tags["channel"])
        print(other.status, other.error)
    """
    done = run_program(source, tmp_path, {"MLFLOW_TRACKING_URI": store_uri}, zygote=MLFLOW)
    assert done.stdout.splitlines() == [
        "serve Predict Why? {'outputs': 'So.'} web",
        "ERROR ValueError: no",
    ]
