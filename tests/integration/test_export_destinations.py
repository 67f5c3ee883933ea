# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The same spans, read back from a SQL store and from a tracking server: equal in every respect."""

from __future__ import annotations

import logging
import math
import os
import random
from typing import Any

import pytest
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)
from packaging.version import Version

import mlflow_bridge
from mlflow_bridge._export.contract import Sent
from mlflow_bridge._spans.otlp_json.decoder import spans_in
from mlflow_bridge._spans.otlp_json.encoder import line_of
from tests.integration.place import Place, cost_of, spans_by_name, tokens_of
from tests.support.dspy_spans import Recorder, json_of, lm_attributes, text_message

pytest.importorskip("mlflow", reason="needs the extra mlflow")

import mlflow
from mlflow.entities import SpanStatusCode
from mlflow.genai.datasets import create_dataset

pytestmark = pytest.mark.integration


def test_a_program(place: Place) -> None:
    place.store(
        place.recorder.rag({"session.id": "s1", "user.id": "u1", "mlflow.traceTag.channel": "web"})
    )
    trace = place.trace()
    info = trace.info
    assert info.state.value == "OK"
    assert info.request_preview == '{"question":"Capital of Japan?"}'
    assert info.response_preview == '{"answer":"東京"}'
    assert info.token_usage == {
        "input_tokens": 100,
        "output_tokens": 20,
        "total_tokens": 120,
        "cache_read_input_tokens": 10,
    }
    assert cost_of(info) == pytest.approx(0.0012)
    assert info.trace_metadata["mlflow.trace.session"] == "s1"
    assert info.trace_metadata["mlflow.trace.user"] == "u1"
    assert info.tags["mlflow.traceName"] == "RAG"
    assert info.tags["channel"] == "web"
    assert info.tags["service.name"] == "test"
    assert [(span.name, span.span_type) for span in trace.data.spans] == [
        ("invoke_workflow RAG", "CHAIN"),
        ("Predict generate", "LLM"),
        ("ChatAdapter", "PARSER"),
        ("chat gpt-4o-mini", "CHAT_MODEL"),
        ("Predict check", "LLM"),
        ("ChatAdapter", "PARSER"),
        ("chat gpt-4o-mini", "CHAT_MODEL"),
        ("search", "TOOL"),
    ]


def test_spans_of_a_program(place: Place) -> None:
    place.store(place.recorder.rag())
    root, predict, _, asked, _, _, cached, tool = place.trace().data.spans
    assert predict.parent_id == tool.parent_id == root.span_id
    assert root.inputs == {"question": "Capital of Japan?"}
    assert tool.outputs == "an island country"
    assert asked.get_attribute("mlflow.message.format") == "dspy"
    assert asked.inputs["messages"][0] == {"role": "system", "content": "Answer."}
    assert asked.inputs["temperature"] == 0.7
    assert asked.outputs == ["[[ ## answer ## ]]\n東京"]
    assert asked.model_name == "gpt-4o-mini"
    assert asked.get_attribute("mlflow.llm.provider") == "openai"
    assert (asked.llm_cost or {})["total_cost"] == 0.0012
    assert (asked.get_attribute("mlflow.chat.tokenUsage") or {})["total_tokens"] == 120
    assert asked.get_attribute("otel.span.kind") == "CLIENT"
    assert asked.get_attribute("gen_ai.response.finish_reasons") == ["stop"]
    assert asked.get_attribute("gen_ai.input.messages") is None
    assert cached.get_attribute("dspy.lm.cache.hit") is True
    assert cached.llm_cost is None
    assert cached.get_attribute("mlflow.chat.tokenUsage") is None


def test_the_preview_of_an_agent_begins_with_its_answer(place: Place) -> None:
    steps = {f"thought_{number}": "x" * 900 for number in range(3)}
    outputs = {"trajectory": steps, "reasoning": "It is known.", "answer": "Paris"}
    place.store(place.recorder.rag({"dspy.module.output": json_of(outputs)}))
    trace = place.trace()
    assert (trace.info.response_preview or "").startswith('{"answer":"Paris"')
    assert trace.data.spans[0].outputs == outputs


def test_every_trace_becomes_a_record_of_a_dataset(place: Place) -> None:
    embedder = {
        "dspy.operation": "embedding",
        "gen_ai.operation.name": "embeddings",
        "dspy.embedder.input": json_of(["one", "two"]),
    }
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.arguments": "Paris"}
    spans = place.recorder.rag()
    for attributes in (embedder, tool, {"input.value": "Hi"}, {}):
        spans.append(place.recorder.one("span", attributes))
    place.store(spans)
    traces = place.traces()
    assert len(traces) == 5
    mlflow.set_tracking_uri(place.config.tracking_uri)
    try:
        dataset = create_dataset(str(place.config.experiment_name))
        records = dataset.merge_records(traces).to_df()
    finally:
        mlflow.set_tracking_uri(None)
    inputs = [record["inputs"] for record in records.to_dict("records")]
    assert {"inputs": ["one", "two"]} in inputs
    assert {"inputs": "Paris"} in inputs
    assert {"input": "Hi"} in inputs
    assert {"question": "Capital of Japan?"} in inputs


def test_searches_that_find_a_program(place: Place) -> None:
    place.store(place.recorder.rag({"session.id": "s1"}))
    for query in (
        "trace.name = 'RAG'",
        "trace.status = 'OK'",
        "span.type = 'CHAT_MODEL'",
        "span.content LIKE '%Capital of Japan%'",
        "span.name = 'search'",
        "span.status = 'OK'",
        "metadata.`mlflow.trace.session` = 's1'",
    ):
        assert len(place.traces(query)) == 1, query


@pytest.mark.skipif(
    Version(mlflow.__version__) < Version("3.17"), reason="older stores keep text escaped"
)
def test_search_for_text_that_is_not_ascii(place: Place) -> None:
    place.store(place.recorder.rag())
    assert len(place.traces("span.content LIKE '%東京%'")) == 1


def test_every_step_of_a_program_that_worked_is_ok(place: Place) -> None:
    place.store(place.recorder.rag())
    codes = {span.name: span.status.status_code for span in place.trace().data.spans}
    assert set(codes.values()) == {SpanStatusCode.OK}, codes


def test_spans_that_were_spooled_are_ok(place: Place) -> None:
    place.store(spans_in(line_of(place.recorder.rag())))
    assert {span.status.status_code for span in place.trace().data.spans} == {SpanStatusCode.OK}


def test_a_failure(place: Place) -> None:
    place.store(place.recorder.failed())
    trace = place.trace()
    assert trace.info.state.value == "ERROR"
    for span in trace.data.spans:
        assert span.status.status_code is SpanStatusCode.ERROR
        assert span.status.description == "no such field"
        [event] = span.events
        assert event.name == "exception"
        assert event.attributes["exception.type"] == "ValueError"
        assert "ValueError: no such field" in str(event.attributes["exception.stacktrace"])


def test_sent_again_is_stored_once(place: Place) -> None:
    spans = place.recorder.rag()
    for part in (spans, spans[3:], spans):
        place.store(part)
    trace = place.trace()
    assert len(trace.data.spans) == len(spans)
    assert tokens_of(trace.info) == 120
    assert cost_of(trace.info) == pytest.approx(0.0012)


@pytest.mark.parametrize("order", ["root first", "root last", "shuffled", "one by one"])
def test_totals_are_right_in_any_order(place: Place, order: str) -> None:
    spans = place.recorder.rag({"session.id": "s1"})
    if order == "root first":
        spans.reverse()
    if order == "shuffled":
        random.Random(5).shuffle(spans)
    middle = 1 if order == "one by one" else 4
    for start in range(0, len(spans), middle):
        place.store(spans[start : start + middle])
    info = place.trace().info
    assert info.state.value == "OK"
    assert tokens_of(info) == 120
    assert cost_of(info) == pytest.approx(0.0012)
    assert info.tags["mlflow.traceName"] == "RAG"
    assert info.trace_metadata["mlflow.trace.session"] == "s1"


def test_many_traces_in_one_batch(place: Place) -> None:
    spans: list[ReadableSpan] = []
    for index in range(20):
        spans += place.recorder.rag(
            {"session.id": f"s{index}", "mlflow.traceTag.number": str(index)}
        )
    random.Random(5).shuffle(spans)
    place.store(spans)
    traces = place.traces()
    assert len(traces) == 20
    for trace in traces:
        number = trace.info.tags["number"]
        assert trace.info.trace_metadata["mlflow.trace.session"] == f"s{number}"
        assert tokens_of(trace.info) == 120


@pytest.mark.parametrize("count", [600, pytest.param(2_000, marks=pytest.mark.scale)])
def test_trace_of_more_spans_than_a_batch(place: Place, count: int) -> None:
    tracer = place.recorder.tracer
    usage = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 1,
        "dspy.lm.cost.total": 0.001,
        "dspy.operation": "lm",
    }
    with tracer.start_as_current_span("long"):
        for index in range(count):
            tracer.start_span("chat", attributes=usage if index % 10 == 0 else None).end()
    spans = place.recorder.take()
    # The root somewhere in the middle.
    spans.insert(300, spans.pop())
    exporter = place.exporter()
    for start in range(0, len(spans), 512):
        part = spans[start : start + 512]
        assert exporter.deliver(part) == Sent(len(part))
    trace = place.trace()
    assert trace.info.state.value == "OK"
    assert len(trace.data.spans) == count + 1
    assert tokens_of(trace.info) == count / 5
    assert cost_of(trace.info) == pytest.approx(count / 10_000)


def test_child_of_a_remote_span_is_a_complete_trace(place: Place) -> None:
    remote = SpanContext(random.getrandbits(128), 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    context = set_span_in_context(NonRecordingSpan(remote))
    with place.recorder.tracer.start_as_current_span("served", context=context):
        place.recorder.tracer.start_span("step").end()
    place.store(place.recorder.take())
    trace = place.trace()
    assert trace.info.state.value == "OK"
    assert trace.info.trace_id == f"tr-{remote.trace_id:032x}"
    assert trace.info.tags["mlflow.traceName"] == "served"


def test_what_other_instrumentations_write(place: Place) -> None:
    tracer = place.recorder.tracer
    genai = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.input.messages": json_of([text_message("user", "Hi")]),
        "gen_ai.output.messages": json_of([text_message("assistant", "Hello")]),
    }
    openinference = {
        "openinference.span.kind": "RETRIEVER",
        "input.value": "who",
        "output.value": '["doc"]',
        "output.mime_type": "application/json",
    }
    with tracer.start_as_current_span("GET /", attributes={"http.request.method": "GET"}):
        tracer.start_span("chat", attributes=genai).end()
        tracer.start_span("retrieve", attributes=openinference).end()
    place.store(place.recorder.take())
    trace = place.trace()
    spans = spans_by_name(trace)
    assert trace.info.tags["mlflow.traceName"] == "GET /"
    assert tokens_of(trace.info) == 15
    assert spans["chat"].inputs == {"messages": [{"role": "user", "content": "Hi"}]}
    assert spans["chat"].outputs["choices"][0]["message"]["content"] == "Hello"
    assert spans["retrieve"].span_type == "RETRIEVER"
    assert spans["retrieve"].inputs == "who"
    assert spans["retrieve"].outputs == ["doc"]
    assert spans["GET /"].get_attribute("http.request.method") == "GET"


HOSTILE: dict[str, Any] = {
    "surrogate": "a\ud800b",
    "nul": "a\x00b",
    "escaped": r'{"a": "\ud800\u0000", "b": NaN}',
    "nan": math.nan,
    "infinite": math.inf,
    "large": 2**70,
    "bytes": b"\xff\x00",
    "holes": [1, None],
    "deep": "[" * 50_000,
    "deep json": "[" * 900 + "]" * 900,
    "deep objects": '{"a": ' * 90 + "1" + "}" * 90,
    "digits": "[" + "9" * 5_000 + "]",
    "long": "ä" * 3_000_000,
    "nested": {"a": {"b": [math.nan, None]}},
}


def test_hostile_values_are_stored(place: Place) -> None:
    """Each in a batch of its own with good spans, and all of them in one span."""
    batches = {key: {"value": value} for key, value in HOSTILE.items()} | {"all": HOSTILE}
    refused: list[str] = []
    exporter = place.exporter(max_attribute_bytes=1_000_000)
    for key, attributes in batches.items():
        good = place.recorder.rag()
        span = hostile(place.recorder.one(key), attributes)
        if exporter.deliver([*good, span]) != Sent(len(good) + 1):
            refused.append(key)
    exporter.close()
    assert refused == []
    assert len(place.traces()) == 2 * len(batches)
    for key, attributes in batches.items():
        [found] = place.traces(f"span.name = '{key}'")
        assert attributes.keys() <= found.data.spans[0].attributes.keys(), key


def hostile(span: ReadableSpan, values: dict[str, Any]) -> ReadableSpan:
    """The span with values wherever there can be some, past what the SDK would let in."""
    texts = {key: value for key, value in values.items() if isinstance(value, str)}
    text = next(iter(texts.values()), "text")
    return ReadableSpan(
        name=span.name,
        context=span.context,
        resource=span.resource,
        attributes={
            **values,
            "session.id": text,
            "user.id": text,
            "mlflow.traceTag.tag": text,
            "dspy.module.type": text,
            "dspy.module.input": text,
            "dspy.module.output": text,
            "gen_ai.request.model": text,
            "gen_ai.provider.name": text,
            "gen_ai.operation.name": "chat",
        },
        events=[Event("event", values), Event(text, {})],
        links=[Link(SpanContext(1, 2, is_remote=False), values)],
        start_time=span.start_time,
        end_time=span.end_time,
    )


def test_conversation_with_tools(place: Place) -> None:
    call = {"type": "tool_call", "id": "c1", "name": "search", "arguments": {"q": "x"}}
    answer = {"type": "tool_call_response", "id": "c1", "response": "found"}
    tool = {"type": "function", "name": "search", "description": "d", "parameters": {}}
    messages = [
        text_message("user", "Hi"),
        {"role": "assistant", "parts": [call]},
        {"role": "tool", "parts": [answer]},
    ]
    attributes = lm_attributes(
        gen_ai__input__messages=json_of(messages), gen_ai__tool__definitions=json_of([tool])
    )
    place.store([place.recorder.one("chat", attributes)])
    [span] = place.trace().data.spans
    assert span.get_attribute("mlflow.message.format") == "openai"
    [shown_tool] = span.get_attribute("mlflow.chat.tools") or []
    assert shown_tool["function"]["name"] == "search"
    assert span.inputs["messages"][1]["tool_calls"][0]["function"]["name"] == "search"
    assert span.inputs["messages"][2]["role"] == "tool"
    assert place.trace().info.request_preview == "Hi"


def test_nothing_is_logged_when_all_is_well(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "mlflow_bridge"):
        place.store(place.recorder.rag())
    assert [record for record in caplog.records if record.name.startswith("mlflow_bridge")] == []


def test_forked_child_delivers_on_its_own(place: Place) -> None:
    exporter = place.exporter()
    assert isinstance(exporter.deliver(place.recorder.many(1)), Sent)
    child = os.fork()
    if child == 0:
        outcome = exporter.deliver(Recorder().many(1))
        os._exit(0 if isinstance(outcome, Sent) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert isinstance(exporter.deliver(place.recorder.many(1)), Sent)
    assert len(place.traces()) == 3


def test_the_doctor_sends_a_trace_and_leaves_none(place: Place) -> None:
    report = mlflow_bridge.doctor(config=place.config)
    states = {check.name: check.state for check in report.checks}
    assert states["destination"] == states["experiment"] == states["round trip"] == "ok", report
    assert "deleted" in str(report)
    assert place.traces() == []
