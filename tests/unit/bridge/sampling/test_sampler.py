# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from typing import Any

import dspy
import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from mlflow_bridge import DSPySampler, trace_context
from mlflow_bridge.sampling.keys import is_in_share, number_of
from opentelemetry.instrumentation.dspy import DSPyCall
from tests.unit.bridge.sampling.conftest import SampleWith
from tests.unit.bridge.sampling.sampled import RAG, Chat, sampling

SESSIONS = [f"session-{index}" for index in range(40)]
WHOLE_RAG = {"module": 1, "predict": 1, "adapter": 1, "lm": 1}


def remote_parent(*, sampled: bool) -> Any:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    state = TraceState([("vendor", "value")])
    return trace.set_span_in_context(
        NonRecordingSpan(SpanContext(7 << 64, 7, True, flags, state)), Context()
    )


@pytest.mark.parametrize(("ratio", "traces"), [(0.0, 0), (1.0, 3)])
async def test_all_or_none(sample_with: SampleWith, ratio: float, traces: int) -> None:
    sampled = sample_with(rate=ratio)
    assert RAG()(question="Why?").answer == "blue"
    predict = dspy.Predict("question -> answer")
    assert (await predict.acall(question="Why?")).answer == "blue"
    assert dspy.settings.lm("Why?")
    assert sampled.traces() == traces


def test_a_trace_is_recorded_whole(sample_with: SampleWith) -> None:
    sampled = sample_with(rate=0.5)
    for _ in range(40):
        RAG()(question="Why?")
    # Which of them it is depends on their random ids; one in 10^12 times it is all or none.
    assert 0 < sampled.traces() < 40
    counts = sampled.operations()
    assert {name: counts[name] for name in WHOLE_RAG} == dict.fromkeys(WHOLE_RAG, sampled.traces())


def test_all_traces_of_a_session_or_none(sample_with: SampleWith) -> None:
    sampled = sample_with(rate=0.5, key="session")
    for session in SESSIONS * 2:
        with trace_context(session_id=session):
            RAG()(question=session)
    chosen = {session for session in SESSIONS if is_in_share(number_of(session), 0.5)}
    assert sampled.operations()["module"] == 2 * len(chosen)
    recorded = {span.attributes["dspy.module.input"] for span in sampled.spans if _is_root(span)}
    assert recorded == {f'{{"question":"{session}"}}' for session in chosen}
    assert 0 < len(chosen) < len(SESSIONS)


def test_all_calls_with_the_same_arguments_or_none(sample_with: SampleWith) -> None:
    sampled = sample_with(rate=0.5, key="inputs")
    for question in SESSIONS * 2:
        RAG()(question=question)
    inputs = [span.attributes["dspy.module.input"] for span in sampled.spans if _is_root(span)]
    assert {inputs.count(text) for text in inputs} == {2}
    assert 0 < len(set(inputs)) < len(SESSIONS)


def test_programs_with_a_share_of_their_own(sample_with: SampleWith) -> None:
    sampled = sample_with(rate=0.0, modules={"Chat": 1.0})
    RAG()(question="Why?")
    Chat()(question="Why?")
    assert sampled.operations()["module"] == 1
    [root] = [span for span in sampled.spans if _is_root(span)]
    assert root.name == "invoke_workflow Chat"


def test_a_function_decides_by_the_live_call(sample_with: SampleWith) -> None:
    program, seen = RAG(), []

    def rate_of(call: DSPyCall) -> float | None:
        seen.append((call.instance, dict(call.kwargs)))
        return {"more": 7.0, "less": -7.0}.get(call.kwargs["question"])

    sampled = sample_with(DSPySampler(sampling(rate=0.0), rate_of=rate_of))
    for question in ("more", "less", "neither"):
        program(question=question)
    assert seen == [(program, {"question": each}) for each in ("more", "less", "neither")]
    assert sampled.operations()["module"] == 1


def test_a_key_of_ones_own(sample_with: SampleWith) -> None:
    sampler = DSPySampler(sampling(rate=0.5), key_of=lambda call: call.kwargs["question"][:9])
    sampled = sample_with(sampler)
    for session in SESSIONS:
        RAG()(question=session)
    chosen = [session for session in SESSIONS if is_in_share(number_of(session[:9]), 0.5)]
    assert sampled.operations()["module"] == len(chosen)


@pytest.mark.parametrize("broken", ["rate_of", "key_of"])
def test_a_function_that_raises_is_left_out_with_one_warning(
    sample_with: SampleWith, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    def fail(call: DSPyCall) -> float | None:
        raise ValueError(f"secret {call.kwargs}")

    caplog.set_level(logging.WARNING)
    given: dict[str, Any] = {broken: fail}
    sampled = sample_with(DSPySampler(sampling(rate=1.0), **given))
    for _ in range(3):
        assert RAG()(question="Why?").answer == "blue"
    assert sampled.traces() == 3
    [line] = [message for message in caplog.messages if "Sampling" in message]
    assert "ValueError" in line
    assert "secret" not in line


def test_the_attributes_of_the_start_stay_on_the_span(sample_with: SampleWith) -> None:
    sampled = sample_with(rate=1.0)
    dspy.Predict("question -> answer")(question="Why?")
    [root] = [span for span in sampled.spans if _is_root(span)]
    attributes = dict(root.attributes or {})
    assert attributes["dspy.operation"] == "predict"
    assert attributes["gen_ai.workflow.name"] == "Predict question -> answer"
    assert attributes["dspy.module.signature"] == "question -> answer"


@pytest.mark.parametrize("ratio", [0.0, 1.0])
@pytest.mark.parametrize("parent_sampled", [False, True])
def test_the_choice_of_another_process_holds(
    sample_with: SampleWith, ratio: float, parent_sampled: bool
) -> None:
    sampled = sample_with(rate=ratio)
    token = attach(remote_parent(sampled=parent_sampled))
    try:
        RAG()(question="Why?")
    finally:
        detach(token)
    assert sampled.traces() == parent_sampled
    for span in sampled.spans:
        assert span.get_span_context().trace_state == TraceState([("vendor", "value")])


@pytest.mark.parametrize("parent_sampled", [False, True])
def test_what_vendors_say_in_the_trace_state_is_passed_on(parent_sampled: bool) -> None:
    sampler = DSPySampler(sampling())
    result = sampler.should_sample(remote_parent(sampled=parent_sampled), 7 << 64, "span")
    assert result.trace_state == TraceState([("vendor", "value")])
    assert (result.decision is Decision.RECORD_AND_SAMPLE) == parent_sampled


def test_spans_of_others_are_sampled_as_well(sample_with: SampleWith) -> None:
    sampled = sample_with(rate=0.0, modules={"RAG": 1.0})
    tracer = sampled.provider.get_tracer("web framework")
    # The choice was made before DSPy was called.
    with tracer.start_as_current_span("GET /"):
        RAG()(question="Why?")
    assert sampled.spans == ()


def test_a_span_of_somebody_else_below_ours_follows_it(sample_with: SampleWith) -> None:
    sampled = sample_with(rate=0.0, modules={"Searching": 1.0})
    tracer = sampled.provider.get_tracer("client")

    class Searching(dspy.Module):
        def forward(self) -> str:
            with tracer.start_as_current_span("POST /search"):
                return "found"

    assert Searching()() == "found"
    assert [span.name for span in sampled.spans] == ["POST /search", "invoke_workflow Searching"]


def test_without_settings_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_SAMPLING_RATE", "0.25")
    assert DSPySampler().get_description() == "DSPySampler{rate=0.25}"


def test_a_bad_variable_is_named_and_its_default_holds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_SAMPLING_RATE", "all")
    monkeypatch.setenv("MLFLOW_DSPY_SAMPLING_KEY", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere")
    assert DSPySampler().get_description() == "DSPySampler{key=user}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert DSPySampler().get_description() == "DSPySampler{key=user}"
    [line] = caplog.messages
    assert "MLFLOW_DSPY_SAMPLING_RATE" in line
    assert line.endswith("Used instead: MLFLOW_DSPY_SAMPLING_RATE=1.0.")


def test_the_description_names_what_is_set() -> None:
    sampler = DSPySampler(sampling(key="user", optimizers="off", modules={"RAG": 0.5}))
    assert sampler.get_description() == "DSPySampler{modules={'RAG': 0.5},key=user,optimizers=off}"


def _is_root(span: Any) -> bool:
    return span.parent is None
