# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import sys
from contextlib import ExitStack
from types import SimpleNamespace
from weakref import ref

import pytest
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    Tracer,
    set_span_in_context,
    use_span,
)

from mlflow_bridge import MLflowBatchSpanProcessor, MLflowDSPyConfig
from mlflow_bridge._config import base
from mlflow_bridge._spans.trace_context import trace_context
from tests.support.fake_delivery import FakeDelivery


class Recorder:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        # After the exporter, since the order must not matter.
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        provider.add_span_processor(MLflowBatchSpanProcessor(FakeDelivery()))
        self.tracer: Tracer = provider.get_tracer("test")

    def attributes(self) -> dict[str, dict[str, object]]:
        spans = self._exporter.get_finished_spans()
        return {span.name: dict(span.attributes or {}) for span in spans}


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    return Recorder()


def record_two(tracer: Tracer) -> None:
    with tracer.start_as_current_span("root"), tracer.start_as_current_span("child"):
        pass


def test_no_attribute_is_set_without_known_values(recorder: Recorder) -> None:
    record_two(recorder.tracer)
    assert recorder.attributes() == {"root": {}, "child": {}}


def test_trace_context_goes_on_the_root(recorder: Recorder) -> None:
    with trace_context(
        session_id="s", user_id="u", conversation_id="c", name="N", tags={"channel": "web", "n": 3}
    ):
        record_two(recorder.tracer)
    assert recorder.attributes() == {
        "root": {
            "session.id": "s",
            "user.id": "u",
            "gen_ai.conversation.id": "c",
            "mlflow.traceTag.mlflow.traceName": "N",
            "mlflow.traceTag.channel": "web",
            "mlflow.traceTag.n": "3",
        },
        "child": {},
    }


def test_nested_blocks_add_to_each_other(recorder: Recorder) -> None:
    with (
        trace_context(session_id="s", user_id="u", tags={"a": "1", "b": "1"}),
        trace_context(user_id="u2", tags={"b": "2"}),
    ):
        record_two(recorder.tracer)
    assert recorder.attributes()["root"] == {
        "session.id": "s",
        "user.id": "u2",
        "mlflow.traceTag.a": "1",
        "mlflow.traceTag.b": "2",
    }


def test_a_block_inside_of_a_trace_reaches_the_spans_directly_below(recorder: Recorder) -> None:
    with recorder.tracer.start_as_current_span("root"):
        with trace_context(session_id="s"):
            record_two_below(recorder.tracer, "first")
            record_two_below(recorder.tracer, "second")
        record_two_below(recorder.tracer, "after")
    spans = recorder.attributes()
    assert {name for name, found in spans.items() if found == {"session.id": "s"}} == {
        "first",
        "second",
    }
    assert sum(map(len, spans.values())) == 2


def record_two_below(tracer: Tracer, name: str) -> None:
    with tracer.start_as_current_span(name), tracer.start_as_current_span(f"{name} child"):
        pass


def test_the_child_of_a_remote_span_is_a_root_here(recorder: Recorder) -> None:
    remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    parent = set_span_in_context(NonRecordingSpan(remote))
    with trace_context(session_id="s"):
        # The parent's context was taken from a request, so the block is not in it.
        recorder.tracer.start_span("explicit", context=parent).end()
    token = context.attach(parent)
    with trace_context(session_id="s"):
        recorder.tracer.start_span("current").end()
    context.detach(token)
    assert recorder.attributes() == {"explicit": {}, "current": {"session.id": "s"}}


def test_baggage_fills_the_values_that_the_program_left_out(recorder: Recorder) -> None:
    carried = baggage.set_baggage("session.id", "from afar")
    carried = baggage.set_baggage("user.id", "u", carried)
    carried = baggage.set_baggage("gen_ai.conversation.id", "c", carried)
    carried = baggage.set_baggage("something.else", "x", carried)
    token = context.attach(carried)
    with trace_context(session_id="from here"):
        record_two(recorder.tracer)
    context.detach(token)
    assert recorder.attributes() == {
        "root": {"session.id": "from here", "user.id": "u", "gen_ai.conversation.id": "c"},
        "child": {},
    }


def test_attributes_that_the_span_was_started_with_stay(recorder: Recorder) -> None:
    with trace_context(session_id="outer", user_id="u"):
        recorder.tracer.start_span("root", attributes={"session.id": "own"}).end()
    assert recorder.attributes()["root"] == {"session.id": "own", "user.id": "u"}


def fake_mlflow(run_id: str | None) -> SimpleNamespace:
    run = None if run_id is None else SimpleNamespace(info=SimpleNamespace(run_id=run_id))
    return SimpleNamespace(active_run=lambda: run)


def test_the_active_run_goes_on_the_root(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", fake_mlflow("run-1"))  # type: ignore[arg-type]
    record_two(recorder.tracer)
    assert recorder.attributes() == {"root": {"mlflow.sourceRun": "run-1"}, "child": {}}


@pytest.mark.parametrize("module", [fake_mlflow(None), SimpleNamespace(), None])
def test_no_run_is_set_without_an_active_run(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, module: SimpleNamespace | None
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", module)  # type: ignore[arg-type]
    record_two(recorder.tracer)
    assert recorder.attributes()["root"] == {}


def test_the_active_model_goes_on_the_root(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = SimpleNamespace(active_run=lambda: None, get_active_model_id=lambda: "m-1")
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    record_two(recorder.tracer)
    assert recorder.attributes() == {"root": {"mlflow.modelId": "m-1"}, "child": {}}


def test_without_mlflow_its_variable_names_the_model(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-2")
    record_two(recorder.tracer)
    assert recorder.attributes()["root"] == {"mlflow.modelId": "m-2"}


def test_metadata_goes_on_the_root(recorder: Recorder) -> None:
    with trace_context(metadata={"release": 7}):
        record_two(recorder.tracer)
    attributes = recorder.attributes()
    assert attributes == {"root": {"mlflow_bridge.trace_metadata.release": "7"}, "child": {}}


def test_metadata_of_a_block_inside_of_a_trace_goes_on_its_root(recorder: Recorder) -> None:
    with (
        trace_context(metadata={"a": 1, "b": 1}),
        recorder.tracer.start_as_current_span("request"),
        trace_context(metadata={"b": 2}),
    ):
        record_two(recorder.tracer)
    assert recorder.attributes()["request"] == {
        "mlflow_bridge.trace_metadata.a": "1",
        "mlflow_bridge.trace_metadata.b": "2",
    }


def test_a_failing_lookup_does_not_reach_the_program(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("no run today")

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(active_run=broken))  # type: ignore[arg-type]
    record_two(recorder.tracer)
    assert set(recorder.attributes()) == {"root", "child"}


def test_all_spans_of_a_trace_name_its_experiment(recorder: Recorder) -> None:
    with trace_context(experiment_id="7", run_id="r"):
        record_two(recorder.tracer)
    assert recorder.attributes() == {
        "root": {"mlflow.experimentId": "7", "mlflow.sourceRun": "r"},
        "child": {"mlflow.experimentId": "7"},
    }


def test_a_trace_stays_in_the_experiment_that_it_began_in(recorder: Recorder) -> None:
    tracer = recorder.tracer
    with (
        trace_context(experiment_id="7"),
        tracer.start_as_current_span("root"),
        trace_context(experiment_id="8"),
        tracer.start_as_current_span("child"),
    ):
        tracer.start_span("grandchild").end()
    with trace_context(experiment_id="8"), tracer.start_as_current_span("other"):
        pass
    places = {name: of["mlflow.experimentId"] for name, of in recorder.attributes().items()}
    assert places == {"root": "7", "child": "7", "grandchild": "7", "other": "8"}


@pytest.mark.parametrize("levels", [0, 2])
def test_tags_and_run_of_a_block_inside_of_a_trace_go_on_its_root(
    recorder: Recorder, levels: int
) -> None:
    tracer = recorder.tracer
    with ExitStack() as stack:
        stack.enter_context(tracer.start_as_current_span("root"))
        for level in range(levels):
            stack.enter_context(tracer.start_as_current_span(f"level {level}"))
        with trace_context(name="N", tags={"team": "a"}, run_id="r", session_id="s"):
            record_two_below(tracer, "program")
    spans = recorder.attributes()
    assert spans["program"] == {"session.id": "s"}
    assert spans["root"] == {
        "mlflow.traceTag.mlflow.traceName": "N",
        "mlflow.traceTag.team": "a",
        "mlflow.sourceRun": "r",
    }
    assert sum(map(len, spans.values())) == 4


def test_the_last_block_decides_on_a_tag_that_it_gives_itself(recorder: Recorder) -> None:
    tracer = recorder.tracer
    with (
        trace_context(tags={"a": "outer", "b": "outer"}),
        tracer.start_as_current_span("root", attributes={"mlflow.traceTag.b": "own"}),
    ):
        for value in ("first", "second"):
            with trace_context(tags={"a": value, f"of {value}": "1"}):
                tracer.start_span("child").end()
        with trace_context(tags={"c": "1"}), trace_context(session_id="s"):
            tracer.start_span("child").end()
    assert recorder.attributes()["root"] == {
        "mlflow.traceTag.a": "second",
        "mlflow.traceTag.b": "own",
        "mlflow.traceTag.c": "1",
        "mlflow.traceTag.of first": "1",
        "mlflow.traceTag.of second": "1",
    }


def test_what_is_too_late_is_logged_once(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_reported", set[str]())
    tracer = recorder.tracer
    root = tracer.start_span("root", attributes={"mlflow.experimentId": "7"})
    with use_span(root):
        with trace_context(experiment_id="7", tags={"a": "1"}):
            tracer.start_span("same experiment").end()
        assert caplog.messages == []
        for _ in range(2):
            with trace_context(experiment_id="8"):
                tracer.start_span("other experiment").end()
        root.end()
        for _ in range(2):
            with trace_context(tags={"b": "2"}):
                tracer.start_span("late").end()
    assert ["inside of a running" in message for message in caplog.messages] == [True, False]
    assert "first span has ended" in caplog.messages[1]


def test_an_experiment_that_a_root_sets_itself_holds_for_its_children(
    recorder: Recorder,
) -> None:
    with recorder.tracer.start_as_current_span("root", attributes={"mlflow.experimentId": "7"}):
        recorder.tracer.start_span("child").end()
    assert recorder.attributes()["child"] == {"mlflow.experimentId": "7"}


def test_a_processor_that_a_program_has_dropped_is_freed_at_once() -> None:
    gc.collect()
    gc.disable()
    try:
        processor = MLflowBatchSpanProcessor(FakeDelivery())
        known = ref(processor)
        processor.shutdown()
        del processor
        assert known() is None
    finally:
        gc.enable()


def test_tags_and_metadata_of_every_trace() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    config = MLflowDSPyConfig(
        tracking_uri="http://127.0.0.1:1",
        custom_tags={"team": "search", "tier": 1},  # type: ignore[dict-item]
        custom_metadata={"release": "7"},
    )
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    processor = MLflowBatchSpanProcessor(config)
    provider.add_span_processor(processor)
    with trace_context(tags={"team": "of the program"}):
        record_two(provider.get_tracer("test"))
    found = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    assert found == {
        "root": {
            "mlflow.traceTag.team": "of the program",
            "mlflow.traceTag.tier": "1",
            "mlflow_bridge.trace_metadata.release": "7",
        },
        "child": {},
    }
