# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""`FinishedTrace`: its fields, and the same trace from spans and from OTLP JSON."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

from mlflow_bridge import FinishedTrace
from mlflow_bridge._spans.annotation import Annotation
from mlflow_bridge._spans.otlp_json.encoder import line_of
from mlflow_bridge._spans.trace_buffer import trace_id_of
from mlflow_bridge.traces import read_otlp_json
from tests.support.dspy_spans import Recorder, json_of, lm_attributes


@pytest.fixture
def recorder() -> Recorder:
    return Recorder("rag service")


ROOT = {
    "session.id": "chat-7",
    "user.id": "ada",
    "mlflow.traceTag.channel": "web",
    "dspy.program.hash": "abc",
}


def test_the_fields_of_a_program(recorder: Recorder) -> None:
    spans = recorder.rag(ROOT)
    found = FinishedTrace.from_spans(spans)
    root = spans[-1]
    assert root.context and root.end_time and root.start_time
    shown = {key: found[key] for key in found if key not in ("root", "spans")}
    assert shown == {
        "id": f"tr-{root.context.trace_id:032x}",
        "name": "RAG",
        "module": "RAG",
        "start_time_ns": root.start_time,
        "duration_ms": (root.end_time - root.start_time) / 1e6,
        "status": "OK",
        "error": None,
        "inputs": {"question": "Capital of Japan?"},
        "outputs": {"answer": "東京"},
        "session_id": "chat-7",
        "user_id": "ada",
        "tags": {
            "channel": "web",
            "service.name": "rag service",
            "dspy.program.hash": "abc",
        },
        "metadata": {},
        "tokens": {"input": 100, "output": 20, "total": 120, "cache_read": 10},
        "cost": 0.0012,
        "program_hash": "abc",
        "complete": True,
    }
    assert found.root is found.spans[0]


def test_spans_are_depth_first_with_the_fields_of_each(recorder: Recorder) -> None:
    found = FinishedTrace.from_spans(recorder.rag())
    by_id = {span.id: span for span in found.spans}
    shown = [
        (by_id[span.parent].name if span.parent else None, span.name, span.type, span.operation)
        for span in found.spans
    ]
    assert shown == [
        (None, "invoke_workflow RAG", "CHAIN", "module"),
        ("invoke_workflow RAG", "Predict generate", "LLM", "predict"),
        ("Predict generate", "ChatAdapter", "PARSER", "adapter"),
        ("ChatAdapter", "chat gpt-4o-mini", "CHAT_MODEL", "lm"),
        ("invoke_workflow RAG", "Predict check", "LLM", "predict"),
        ("Predict check", "ChatAdapter", "PARSER", "adapter"),
        ("ChatAdapter", "chat gpt-4o-mini", "CHAT_MODEL", "lm"),
        ("invoke_workflow RAG", "search", "TOOL", "tool"),
    ]
    call = found.spans[3]
    assert (call.model, call.cost, call.tokens["total"]) == ("gpt-4o-mini", 0.0012, 120)
    assert call.outputs == {"outputs": ["[[ ## answer ## ]]\n東京"]}
    assert call.attributes["gen_ai.request.temperature"] == 0.7
    assert not [key for key in call.attributes if key.startswith("mlflow.span")]
    cached = found.spans[6]
    assert (cached.model, cached.cost, cached.tokens["total"]) == ("gpt-4o-mini", None, 0)


def test_find_looks_for_the_path_of_a_module_and_then_for_a_name(recorder: Recorder) -> None:
    found = FinishedTrace.from_spans(recorder.rag())
    assert found.find("check") is found.spans[4]
    assert found.find("search") is found.spans[7]
    assert found.find("nowhere") is None


def test_a_line_of_otlp_json_gives_the_same_trace(recorder: Recorder) -> None:
    spans = recorder.rag(ROOT)
    assert FinishedTrace.from_otlp_json(line_of(spans)) == FinishedTrace.from_spans(spans)


def test_lines_of_otlp_json_give_the_same_trace(recorder: Recorder) -> None:
    spans = recorder.failed()
    lines = [line_of([span]).decode() for span in spans]
    live = FinishedTrace.from_spans(spans)
    assert FinishedTrace.from_otlp_json(lines) == live
    assert FinishedTrace.from_otlp_json("".join(lines)) == live


def test_a_file_of_several_traces(recorder: Recorder, tmp_path: Path) -> None:
    first, second = recorder.rag(), recorder.failed()
    file = tmp_path / "traces.jsonl"
    # As a collector writes them: a batch has spans of several traces.
    file.write_bytes(line_of([*first[:2], *second]) + b"\n" + line_of(first[2:]))
    assert list(read_otlp_json(file)) == [
        FinishedTrace.from_spans(first),
        FinishedTrace.from_spans(second),
    ]


def test_a_failure_has_its_message(recorder: Recorder) -> None:
    found = FinishedTrace.from_spans(recorder.failed())
    assert (found.status, found.error, found.module) == ("ERROR", "no such field", "Broken")
    assert [event["name"] for event in found.root.events] == ["exception"]
    assert found.root.events[0]["attributes"]["exception.type"] == "ValueError"


def test_a_failure_without_a_description_has_the_type_of_its_exception(recorder: Recorder) -> None:
    with recorder.tracer.start_as_current_span(
        "root", set_status_on_exception=False, record_exception=False
    ) as root:
        root.add_event("exception", {"exception.type": "TimeoutError"})
        root.set_status(StatusCode.ERROR)
    assert FinishedTrace.from_spans(recorder.take()).error == "TimeoutError"


def test_a_failed_child_alone_does_not_fail_the_trace(recorder: Recorder) -> None:
    with recorder.tracer.start_as_current_span("root"):
        step = recorder.tracer.start_span("step")
        step.set_status(Status(StatusCode.ERROR, "retried"))
        step.end()
    found = FinishedTrace.from_spans(recorder.take())
    assert (found.status, found.error) == ("OK", None)
    assert (found.spans[1].status, found.spans[1].error) == ("ERROR", "retried")


def test_what_a_parent_repeats_of_its_children_is_not_counted_twice(recorder: Recorder) -> None:
    usage = {"gen_ai.usage.input_tokens": 300, "gen_ai.usage.output_tokens": 60}
    agent = {"gen_ai.operation.name": "invoke_agent", **usage}
    with recorder.tracer.start_as_current_span("root"):
        with recorder.tracer.start_as_current_span("agent", attributes=agent):
            for _ in range(3):
                recorder.tracer.start_span("chat", attributes=lm_attributes()).end()
        recorder.tracer.start_span("chat", attributes=lm_attributes()).end()
    found = FinishedTrace.from_spans(recorder.take())
    assert found.tokens == {"input": 400, "output": 80, "total": 480, "cache_read": 10}
    assert found.cost == pytest.approx(4 * 0.0012)


def test_calls_inside_of_a_call_are_counted_once(recorder: Recorder) -> None:
    outer = lm_attributes(
        dspy__lm__inner__input_tokens=100,
        dspy__lm__inner__output_tokens=20,
        dspy__lm__inner__cost__total=0.0012,
    )
    with recorder.tracer.start_as_current_span("chat", attributes=outer):
        recorder.tracer.start_span("chat", attributes=lm_attributes()).end()
    found = FinishedTrace.from_spans(recorder.take())
    assert (found.tokens["input"], found.tokens["total"]) == (200, 240)
    assert found.cost == pytest.approx(0.0024)


def test_usage_without_a_known_price_has_no_cost(recorder: Recorder) -> None:
    free = lm_attributes(dspy__lm__cost__total=None)
    found = FinishedTrace.from_spans([recorder.one("chat", free)])
    assert (found.tokens["total"], found.cost) == (120, None)


def test_a_root_of_a_web_framework_shows_the_program_below_it(recorder: Recorder) -> None:
    with recorder.provider.get_tracer("fastapi").start_as_current_span("POST /ask"):
        module = {
            "dspy.operation": "module",
            "dspy.module.type": "RAG",
            "dspy.module.input": json_of({"question": "Why?"}),
            "dspy.module.output": json_of({"answer": "So."}),
        }
        recorder.tracer.start_span("invoke_workflow RAG", attributes=module).end()
    found = FinishedTrace.from_spans(recorder.take())
    assert (found.name, found.module) == ("POST /ask", "RAG")
    assert (found.inputs, found.outputs) == ({"question": "Why?"}, {"answer": "So."})


def test_a_root_names_metadata_and_state_of_its_trace(recorder: Recorder) -> None:
    own = {
        "mlflow_bridge.trace_metadata.release": "7",
        "mlflow_bridge.trace_metadata.mlflow.modelId": "m-1",
        "mlflow_bridge.trace_state": "ERROR",
    }
    found = FinishedTrace.from_spans(recorder.rag(own))
    assert (found.metadata, found.status, found.root.status) == ({"release": "7"}, "ERROR", "OK")
    assert not [key for key in found.root.attributes if key.startswith("mlflow_bridge.")]


def test_annotations_in_a_file_are_no_spans(recorder: Recorder) -> None:
    spans = recorder.rag()
    trace_id = trace_id_of(spans[0])
    tag = Annotation(f"tr-{trace_id:032x}", tag=("reviewed", "yes")).as_span(trace_id)
    lines = [line_of(spans), line_of([tag])]
    assert FinishedTrace.from_otlp_json(lines) == FinishedTrace.from_spans(spans)


def test_without_content_there_are_no_inputs(recorder: Recorder) -> None:
    found = FinishedTrace.from_spans([recorder.one("root", {"dspy.operation": "module"})])
    assert (found.inputs, found.outputs) == (None, None)


def test_a_trace_below_a_remote_caller_is_complete(recorder: Recorder) -> None:
    caller = trace.NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)))
    with recorder.tracer.start_as_current_span("root", trace.set_span_in_context(caller)):
        recorder.tracer.start_span("step").end()
    found = FinishedTrace.from_spans(recorder.take())
    assert (found.id, found.root.parent, found.complete) == (f"tr-{1:032x}", None, True)


def test_without_its_root_a_trace_is_not_complete(recorder: Recorder) -> None:
    spans = recorder.rag()
    assert not FinishedTrace.from_spans(spans[:-1]).complete


def test_spans_that_are_each_others_parents_do_not_hang() -> None:
    def span(own: int, parent: int) -> ReadableSpan:
        flags = TraceFlags(1)
        return ReadableSpan(
            f"span {own}",
            context=SpanContext(1, own, False, flags),
            parent=SpanContext(1, parent, False, flags),
            start_time=own,
            end_time=own,
        )

    found = FinishedTrace.from_spans([span(1, 2), span(2, 1), span(3, 3)])
    assert sorted(one.name for one in found.spans) == ["span 1", "span 2", "span 3"]


def test_a_deep_trace_is_read(recorder: Recorder) -> None:
    parent = None
    spans = []
    for depth in range(5000):
        context = trace.set_span_in_context(parent) if parent else None
        parent = recorder.tracer.start_span(f"span {depth}", context)
        spans.append(parent)
    for span in reversed(spans):
        span.end()
    assert len(FinishedTrace.from_spans(recorder.take()).spans) == 5000


@pytest.mark.parametrize("spans", [0, 2])
def test_spans_have_to_be_of_one_trace(recorder: Recorder, spans: int) -> None:
    with pytest.raises(ValueError, match=f"the spans belong to {spans} traces; accepted: "):
        FinishedTrace.from_spans(recorder.many(spans))


@pytest.mark.parametrize("line", ["{", "[1]", '{"resourceSpans": 3}'])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not OTLP traces"):
        FinishedTrace.from_otlp_json(line)


@pytest.mark.parametrize("given", [3, None, {"info": {}}, "{", '{"info": {}, "data": {}}'])
def test_what_is_no_trace_of_mlflow_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"accepted: an mlflow\.entities\.Trace"):
        FinishedTrace.from_mlflow(given)


def test_it_is_a_read_only_mapping(recorder: Recorder) -> None:
    found = FinishedTrace.from_spans(recorder.rag())
    assert found["duration_ms"] == found.duration_ms
    assert found.get("nothing") is None
    assert "find" not in found
    assert len(found) == len(list(found)) == 19
    with pytest.raises(KeyError):
        _ = found["find"]
    assert dict(found.spans[3])["model"] == "gpt-4o-mini"


def test_nothing_in_it_can_be_changed(recorder: Recorder) -> None:
    found: Any = FinishedTrace.from_spans(recorder.rag())
    call = found.spans[3]
    changes = [
        lambda: setattr(found, "name", "other"),
        lambda: setattr(call, "name", "other"),
        lambda: found.tags.update(a="b"),
        lambda: found.tokens.__setitem__("total", 0),
        lambda: call.inputs["messages"].append("more"),
        lambda: call.inputs["messages"][0].pop("role"),
        call.attributes.clear,
    ]
    before = pickle.dumps(found)
    for change in changes:
        with pytest.raises((AttributeError, TypeError)):
            change()
    assert pickle.loads(before) == found


def test_it_can_be_copied_pickled_hashed_and_written_as_json(recorder: Recorder) -> None:
    found = FinishedTrace.from_spans(recorder.rag())
    assert copy.deepcopy(found) == found == pickle.loads(pickle.dumps(found))
    assert {found: 1}[copy.copy(found)] == 1
    assert json.loads(json.dumps(found.spans[3].inputs)) == found.spans[3].inputs
    changed = dict(found.tags)
    changed["more"] = "yes"
    assert "more" not in found.tags


def test_its_text_has_no_content(recorder: Recorder) -> None:
    found = FinishedTrace.from_spans(recorder.rag())
    shown = f"{found} {found.spans}"
    assert "RAG" in shown
    assert "Japan" not in shown
