# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A span in MLflow's dialect: nothing lost, nothing twice, nothing unstorable."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from mlflow_bridge._export.mapping.span import SpanMapper
from tests.support.dspy_spans import Recorder, json_of, lm_attributes, text_message
from tests.unit.bridge.export.mapped_spans import LIMIT, attributes_of, mapped, one, replaced


def test_lm_span(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test may have imported what knows list prices.
    for library in ("litellm", "dspy.clients.model_metadata"):
        monkeypatch.delitem(sys.modules, library, raising=False)
    attributes = one(lm_attributes(), kind=SpanKind.CLIENT)
    fields = {key: value for key, value in attributes.items() if key.startswith(("mlflow", "otel"))}
    assert fields == {
        "mlflow.spanType": "CHAT_MODEL",
        "mlflow.spanInputs": {
            "messages": [
                {"role": "system", "content": "Answer."},
                {"role": "user", "content": "[[ ## question ## ]]\nCapital of Japan?"},
            ],
            "temperature": 0.7,
        },
        "mlflow.spanOutputs": ["[[ ## answer ## ]]\n東京"],
        "mlflow.message.format": "dspy",
        "mlflow.llm.model": "gpt-4o-mini",
        "mlflow.llm.provider": "openai",
        "mlflow.chat.tokenUsage": {
            "input_tokens": 100,
            "output_tokens": 20,
            "total_tokens": 120,
            "cache_read_input_tokens": 10,
        },
        "mlflow.llm.cost": {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0012},
        "mlflow.traceTag.mlflow.traceName": "span",
        "otel.span.kind": "CLIENT",
        "otel.scope.name": "opentelemetry.instrumentation.dspy",
        "otel.scope.version": "0.1",
    }


def test_content_is_kept_once() -> None:
    attributes = one(lm_attributes())
    assert "gen_ai.input.messages" not in attributes
    assert "gen_ai.output.messages" not in attributes
    assert attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert attributes["gen_ai.usage.input_tokens"] == 100
    assert attributes["dspy.operation"] == "lm"


@pytest.mark.parametrize(
    ("attributes", "inputs", "outputs"),
    [
        (
            {"dspy.module.input": '{"q": "x"}', "dspy.module.output": '{"a": 1}'},
            {"q": "x"},
            {"a": 1},
        ),
        ({"dspy.module.output": '"text"'}, None, "text"),
        ({"dspy.module.output": "5"}, None, 5),
        ({"dspy.module.output": "true"}, None, True),
        ({"dspy.module.output": "null"}, None, None),
        ({"dspy.module.output": r'"{\"a\": 1}"'}, None, '{"a": 1}'),
        ({"dspy.adapter.input": "[1]", "dspy.adapter.output": "[]"}, {"inputs": [1]}, []),
        (
            {"gen_ai.tool.call.arguments": '{"x": 1}', "gen_ai.tool.call.result": '"ok"'},
            {"x": 1},
            "ok",
        ),
        ({"dspy.embedder.input": '["a", "b"]'}, {"inputs": ["a", "b"]}, None),
        (
            {"dspy.interpreter.input": '{"code": "1"}', "dspy.interpreter.output": '"1"'},
            {"code": "1"},
            "1",
        ),
        ({"dspy.example.input": '{"q": "x"}'}, {"q": "x"}, None),
        ({"dspy.metric.input": '{"example": {}}'}, {"example": {}}, None),
        (
            {"dspy.operation": "evaluate", "dspy.evaluate.output": '{"score": 50.0}'},
            None,
            {"score": 50.0},
        ),
        ({"input.value": "5", "output.value": "text"}, {"input": "5"}, "text"),
        ({"input.value": '{"a": 1', "output.value": "text"}, {"input": '{"a": 1'}, "text"),
        (
            {"input.value": '{"a": 1}', "input.mime_type": "application/json"},
            {"a": 1},
            None,
        ),
        ({"gen_ai.retrieval.query.text": "who"}, {"query": "who"}, None),
        (
            {"gen_ai.retrieval.documents": '[{"id": "d1", "score": 0.5, "content": "text"}, "x"]'},
            None,
            [
                {"page_content": "text", "metadata": {"score": 0.5}, "id": "d1"},
                {"page_content": "x", "metadata": {}},
            ],
        ),
        ({"mlflow.spanInputs": '{"mine": 1}', "dspy.module.output": "5"}, {"mine": 1}, None),
        ({}, None, None),
    ],
)
def test_inputs_and_outputs(attributes: dict[str, Any], inputs: Any, outputs: Any) -> None:
    stored = one(attributes)
    assert stored.get("mlflow.spanInputs") == inputs
    assert stored.get("mlflow.spanOutputs") == outputs
    doubled = {"dspy.module.input", "dspy.example.input", "gen_ai.tool.call.result"}
    doubled |= {"input.value", "input.mime_type"}
    assert "mlflow.spanInputs" in attributes or not doubled & stored.keys()


def test_inputs_of_a_root_are_a_mapping_also_if_they_are_cut() -> None:
    texts = json_of(["x" * 1000] * 1000)
    [first, *_] = one({"dspy.embedder.input": texts})["mlflow.spanInputs"]["inputs"]
    assert first.endswith("more characters]")


@pytest.mark.parametrize(
    ("outputs", "stored"),
    [
        (
            {"trajectory": {"thought_0": "x"}, "reasoning": "y", "answer": "Paris"},
            ["answer", "trajectory", "reasoning"],
        ),
        ({"reasoning": "y", "answer": "Paris", "score": 1}, ["answer", "score", "reasoning"]),
        ({"answer": "Paris", "reasoning": "y", "score": 1}, ["answer", "reasoning", "score"]),
        ({"reasoning": "y"}, ["reasoning"]),
    ],
)
def test_outputs_of_a_root_begin_with_the_answer(
    outputs: dict[str, Any], stored: list[str]
) -> None:
    found = one({"dspy.module.output": json_of(outputs)})["mlflow.spanOutputs"]
    assert list(found) == stored
    assert found == outputs


def test_outputs_of_a_step_keep_their_order() -> None:
    recorder = Recorder()
    outputs = {"dspy.module.output": '{"reasoning": "y", "answer": "Paris"}'}
    with recorder.tracer.start_as_current_span("root"):
        recorder.tracer.start_span("step", attributes=outputs).end()
    step = attributes_of(recorder.take()[0])
    assert list(step["mlflow.spanOutputs"]) == ["reasoning", "answer"]


@pytest.mark.parametrize(
    ("name", "attributes", "stored"),
    [
        ("execute_tool search", {"gen_ai.tool.name": "search"}, "search"),
        ("execute_tool search", {"gen_ai.tool.name": "other"}, "execute_tool search"),
        ("execute_tool search", {}, "execute_tool search"),
        # The instrumentation cuts the name of a span, and not the name of the tool.
        (f"execute_tool {'s' * 114}…", {"gen_ai.tool.name": "s" * 200}, "s" * 200),
        ("execute_tool s…", {"gen_ai.tool.name": "other"}, "execute_tool s…"),
        ("look it up", {"gen_ai.tool.name": "search"}, "look it up"),
    ],
)
def test_a_tool_has_its_own_name(name: str, attributes: dict[str, Any], stored: str) -> None:
    span = Recorder().one(name, {"gen_ai.operation.name": "execute_tool", **attributes})
    assert mapped(span).span.name == stored
    assert span.name == name


def test_a_child_has_the_inputs_that_it_was_given() -> None:
    recorder = Recorder()
    with recorder.tracer.start_as_current_span("root"):
        recorder.tracer.start_span("child", attributes={"input.value": "5"}).end()
        embedder = {"dspy.embedder.input": '["a"]'}
        recorder.tracer.start_span("embeddings", attributes=embedder).end()
    child, embeddings, _ = (attributes_of(span) for span in recorder.take())
    assert child["mlflow.spanInputs"] == "5"
    assert embeddings["mlflow.spanInputs"] == {"inputs": ["a"]}


def test_genai_span_of_another_instrumentation() -> None:
    attributes = one(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.system": "anthropic",
            "gen_ai.request.model": "claude",
            "gen_ai.usage.prompt_tokens": 5,
            "gen_ai.system_instructions": json_of([{"type": "text", "content": "Be brief."}]),
            "gen_ai.input.messages": json_of([text_message("user", "Hi")]),
            "gen_ai.output.messages": json_of([text_message("assistant", "Hello")]),
        }
    )
    assert attributes["mlflow.spanType"] == "CHAT_MODEL"
    assert attributes["mlflow.message.format"] == "openai"
    assert attributes["mlflow.spanInputs"]["messages"][0]["role"] == "system"
    assert attributes["mlflow.spanOutputs"]["choices"][0]["message"]["content"] == "Hello"
    assert attributes["mlflow.llm.provider"] == "anthropic"
    assert attributes["mlflow.chat.tokenUsage"]["total_tokens"] == 5
    assert "gen_ai.system_instructions" not in attributes


def test_plain_span_keeps_its_attributes() -> None:
    attributes = one({"http.request.method": "GET", "http.response.status_code": 200})
    assert attributes["http.request.method"] == "GET"
    assert attributes["http.response.status_code"] == 200
    assert attributes["mlflow.spanType"] == "UNKNOWN"
    assert "mlflow.spanInputs" not in attributes


def test_values_in_mlflows_own_words_stand() -> None:
    own = {"mlflow.spanType": '"MEMORY"', "mlflow.llm.cost": '{"total_cost": 5}'}
    attributes = one(lm_attributes() | own)
    assert attributes["mlflow.spanType"] == "MEMORY"
    assert attributes["mlflow.llm.cost"] == {"total_cost": 5}


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ({"dspy.module.type": "RAG", "gen_ai.workflow.name": "flow"}, "flow"),
        ({"dspy.module.type": "RAG"}, "RAG"),
        ({"gen_ai.workflow.name": "flow"}, "flow"),
        ({"gen_ai.agent.name": "agent"}, "agent"),
        ({}, "span"),
        ({"mlflow.traceTag.mlflow.traceName": "mine", "dspy.module.type": "RAG"}, "mine"),
        ({"dspy.module.type": "x" * 9_000}, "x" * 4096),
    ],
)
def test_trace_name(attributes: dict[str, Any], name: str) -> None:
    assert one(attributes)["mlflow.traceTag.mlflow.traceName"] == name


def test_only_the_root_names_the_trace() -> None:
    spans = Recorder().rag()
    named = [span for span in spans if "mlflow.traceTag.mlflow.traceName" in attributes_of(span)]
    assert named == spans[-1:]


@pytest.mark.parametrize("key", ["session.id", "user.id", "gen_ai.conversation.id"])
@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("abc", "abc"),
        ("x" * 300, "x" * 250),
        ("a\x00\ud800", "a\ufffd\ufffd"),
        (7, "7"),
        ("", None),
    ],
)
def test_identity(key: str, value: Any, stored: str | None) -> None:
    span = replaced(Recorder().one(), attributes={key: value})
    assert attributes_of(span).get(key) == stored


def test_child_of_a_remote_span_becomes_the_root() -> None:
    recorder = Recorder()
    remote = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    context = set_span_in_context(NonRecordingSpan(remote))
    with recorder.tracer.start_as_current_span("local root", context=context):
        recorder.tracer.start_span("child").end()
    child, root = (mapped(span) for span in recorder.take())
    assert root.is_root
    assert root.span.attributes is not None
    assert root.span.attributes["otel.remote_parent.span_id"] == "0000000000000def"
    assert root.span.attributes["mlflow.traceTag.mlflow.traceName"] == "local root"
    assert root.trace_id == 0xABC
    assert not child.is_root


def test_child_of_a_remote_span_may_stay_below_its_caller() -> None:
    recorder = Recorder("called")
    remote = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    context = set_span_in_context(NonRecordingSpan(remote))
    recorder.tracer.start_span("local root", context, attributes={"input.value": "Hi"}).end()
    root = SpanMapper(LIMIT).map(recorder.take()[0], below_caller=True)
    attributes = root.span.attributes or {}
    assert (root.is_root, root.is_local_root, root.span.parent) == (False, True, remote)
    assert "mlflow.traceTag.mlflow.traceName" not in attributes
    assert attributes["service.name"] == "called"
    assert attributes["mlflow.spanInputs"] == '{"input":"Hi"}'


def test_only_the_root_tags_the_trace_with_its_service_and_each_span_has_its_own() -> None:
    spans = [mapped(span).span for span in Recorder("shop").rag()]
    tags = [dict(span.resource.attributes) for span in spans]
    assert tags == [{}] * (len(spans) - 1) + [{"service.name": "shop"}]
    assert {(span.attributes or {})["service.name"] for span in spans} == {"shop"}


def test_a_span_may_name_another_service() -> None:
    assert one({"service.name": "mine"})["service.name"] == "mine"


def test_events_links_and_status_are_kept_and_cleaned() -> None:
    recorder = Recorder()
    context = SpanContext(1, 2, is_remote=False)
    span = recorder.tracer.start_span("span", links=[Link(context, {"why": "a\x00"})])
    span.add_event("scored", {"score": math.nan, "bad": "\ud800"}, timestamp=5)
    span.set_status(Status(StatusCode.ERROR, "no\x00"))
    span.end()
    result = mapped(recorder.take()[0]).span
    (event,) = result.events
    assert (event.name, event.timestamp) == ("scored", 5)
    assert dict(event.attributes or {}) == {"score": "NaN", "bad": "\ufffd"}
    (link,) = result.links
    assert link.context == context
    assert dict(link.attributes or {}) == {"why": "a\ufffd"}
    assert result.status.status_code is StatusCode.ERROR
    assert result.status.description == "no\ufffd"


@pytest.mark.parametrize(
    ("time", "stored"), [(1.7e18, 1_700_000_000_000_000_000), (math.nan, 0), ("now", 0)]
)
def test_names_and_times_that_the_sdk_does_not_check_are_repaired(time: Any, stored: int) -> None:
    odd: Any = Path("odd")
    span = ReadableSpan(
        name=odd,
        context=Recorder().one("plain").context,
        events=[Event(odd, {}, time)],
        start_time=time,
        end_time=time,
    )
    repaired = mapped(span).span
    assert (repaired.name, repaired.start_time, repaired.end_time) == ("odd", stored, stored)
    assert (repaired.attributes or {})["mlflow.traceTag.mlflow.traceName"] == "odd"
    [event] = repaired.events
    assert (event.name, event.timestamp) == ("odd", stored)
    # The encoder of the way to a server takes it.
    assert encode_spans([repaired]).ByteSize() > 0


def test_identity_and_times_are_those_of_the_span() -> None:
    span = Recorder().one(kind=SpanKind.CLIENT)
    result = mapped(span).span
    assert result.context == span.context
    assert (result.start_time, result.end_time) == (span.start_time, span.end_time)
    assert result.kind is SpanKind.CLIENT
    assert result.instrumentation_scope == span.instrumentation_scope


def test_the_span_itself_is_not_changed() -> None:
    span = Recorder().one("span", lm_attributes())
    before = span.to_json()
    mapped(span)
    assert span.to_json() == before


def test_resource_without_what_would_only_be_noise_in_tags() -> None:
    resource = Resource(
        {
            "service.name": "app",
            "service.instance.id": "1-2-3",
            "telemetry.sdk.name": "opentelemetry",
            "process.pid": 7,
            "deployment.environment.name": "prod",
            "size": math.nan,
        }
    )
    span = replaced(Recorder().one(), resource=resource)
    assert dict(mapped(span).span.resource.attributes) == {
        "service.name": "app",
        "deployment.environment.name": "prod",
        "size": "NaN",
    }


def test_a_service_that_nobody_named_is_no_tag() -> None:
    resource = Resource({"service.name": "unknown_service:python", "deployment": "prod"})
    span = replaced(Recorder().one(), resource=resource)
    assert dict(mapped(span).span.resource.attributes) == {"deployment": "prod"}
    assert "service.name" not in attributes_of(span)


def test_where_the_span_belongs() -> None:
    span = Recorder().one("span", {"mlflow.experimentId": '"7"', "mlflow.sourceRun": "abc"})
    result = mapped(span)
    assert (result.experiment_id, result.run_id) == ("7", "abc")


@pytest.mark.parametrize(
    "value",
    [2**80, b"\xff", math.inf, "\ud800", {"nested": [1]}, [None, 1], "[" * 100_000, object()],
    ids=lambda value: type(value).__name__,
)
def test_hostile_value_is_stored_as_something(value: Any) -> None:
    span = replaced(Recorder().one(), attributes={"key": value, "k\x00ey": 1, "": 2})
    attributes = mapped(span).span.attributes or {}
    assert attributes["key"] is not None
    assert attributes["k\ufffdey"] == 1
    assert "" not in attributes


def test_size_is_bounded_whatever_comes_in() -> None:
    huge = "x" * 10_000_000
    span = Recorder().one("n" * 10_000_000, {"dspy.module.input": json_of({"q": huge}), "y": huge})
    result = mapped(span)
    assert result.size < 3 * LIMIT
    assert len(result.span.name) <= 4096
    assert attributes_of(span)["mlflow.spanInputs"]["q"].endswith("more characters]")


def test_span_that_never_ended_is_not_stored_as_running() -> None:
    span = replaced(Recorder().one(), end_time=None, events=[Event("e", None, 1)])
    assert mapped(span).span.end_time == span.start_time


@pytest.mark.parametrize("attributes", [lm_attributes(), {"http.request.method": "GET"}])
@pytest.mark.parametrize("status", [StatusCode.UNSET, StatusCode.OK])
def test_an_ended_span_without_an_error_is_ok(
    attributes: dict[str, Any], status: StatusCode
) -> None:
    span = replaced(Recorder().one("span", attributes), status=Status(status))
    stored = mapped(span).span.status
    assert (stored.status_code, stored.description) == (StatusCode.OK, None)
    # The span itself, which other backends get, keeps its status.
    assert span.status.status_code is status


def test_a_span_that_never_ended_keeps_its_status() -> None:
    span = replaced(Recorder().one(), end_time=None)
    assert mapped(span).span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("written", ['"UNKNOWN"', "null", '""'])
def test_type_that_says_nothing_gives_way_to_what_is_known(written: str) -> None:
    attributes = one({"mlflow.spanType": written, "gen_ai.operation.name": "chat"})
    assert attributes["mlflow.spanType"] == "CHAT_MODEL"


def test_span_that_mlflow_made() -> None:
    attributes = one(
        {
            "mlflow.spanType": '"RETRIEVER"',
            "mlflow.traceRequestId": '"tr-1"',
            "mlflow.spanInputs": '{"q": 1}',
        }
    )
    assert attributes["mlflow.spanType"] == "RETRIEVER"
    assert attributes["mlflow.spanInputs"] == {"q": 1}
    assert "mlflow.traceRequestId" not in attributes
