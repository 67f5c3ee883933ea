# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The event of each model call, in the modes in which content goes to events."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tests.support.fake_openai import FakeOpenAI
from tests.support.lms import EchoLM, FailingLM, answering, served
from tests.support.logged import Logged, plain
from tests.support.registry import CONTENT, REGISTRY
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

pytestmark = pytest.mark.surface("LM")

NAME = "gen_ai.client.inference.operation.details"
ASKED = [{"role": "user", "parts": [{"type": "text", "content": "hello"}]}]
ANSWERED = [
    {"role": "assistant", "parts": [{"type": "text", "content": "hi"}], "finish_reason": "stop"}
]
EVENT_MODES = pytest.mark.parametrize("mode", ["EVENT_ONLY", "SPAN_AND_EVENT"])


@pytest.fixture
def logged() -> Logged:
    return Logged()


def make(trace_with: TraceWith, logged: Logged, mode: Any, **settings: Any) -> Traced:
    return trace_with(capture_content=mode, logger_provider=logged.provider, **settings)


@pytest.mark.parametrize("call", ["sync", "async"])
@EVENT_MODES
async def test_a_call_makes_an_event(
    trace_with: TraceWith, logged: Logged, mode: str, call: str
) -> None:
    traced = make(trace_with, logged, mode)
    lm = EchoLM("hi", temperature=0.5)
    assert (lm("hello") if call == "sync" else await lm.acall("hello")) == ["hi"]
    span = traced.span("chat echo")
    content = {name for name in span.attributes or {} if name in CONTENT}
    spans_own = {"gen_ai.input.messages", "gen_ai.output.messages"}
    assert content == (spans_own if mode == "SPAN_AND_EVENT" else set())
    event = logged.attributes()
    assert event.pop("gen_ai.input.messages") == ASKED
    assert event.pop("gen_ai.output.messages") == ANSWERED
    told = {name: plain(value) for name, value in (span.attributes or {}).items()}
    assert event == {name: value for name, value in told.items() if name not in content}
    assert event["gen_ai.request.temperature"] == 0.5
    assert event["gen_ai.usage.input_tokens"] == 3
    assert {name for name in event if name not in REGISTRY} == set()


@EVENT_MODES
def test_it_belongs_to_the_span(trace_with: TraceWith, logged: Logged, mode: str) -> None:
    traced = make(trace_with, logged, mode)
    with dspy.context(lm=answering()):
        dspy.Predict("question -> answer")(question="?")
    (record,) = logged.records
    context = traced.span("chat dummy").get_span_context()
    assert (record.trace_id, record.span_id) == (context.trace_id, context.span_id)
    assert record.timestamp > 0


@pytest.mark.parametrize("mode", ["NO_CONTENT", "SPAN_ONLY"])
def test_no_event_in_the_other_modes(trace_with: TraceWith, logged: Logged, mode: str) -> None:
    make(trace_with, logged, mode)
    EchoLM("hi")("hello")
    assert logged.records == []


def test_no_event_of_a_call_that_is_not_recorded(trace_with: TraceWith, logged: Logged) -> None:
    make(trace_with, logged, "EVENT_ONLY", sampler=ALWAYS_OFF)
    EchoLM("hi")("hello")
    assert logged.records == []


@pytest.mark.parametrize("call", ["sync", "async"])
async def test_a_failed_call(trace_with: TraceWith, logged: Logged, call: str) -> None:
    traced = make(trace_with, logged, "EVENT_ONLY")
    lm = FailingLM(lambda: LookupError("no canary-8"))
    with pytest.raises(LookupError):
        lm("hello") if call == "sync" else await lm.acall("hello")
    event = logged.attributes()
    assert event["error.type"] == "LookupError"
    assert event["gen_ai.input.messages"] == ASKED
    assert "gen_ai.output.messages" not in event
    assert "canary-8" not in everything_in(traced.spans) + repr(event)


@pytest.mark.parametrize("switch", ["inputs", "outputs"])
def test_switches_hold_for_events(trace_with: TraceWith, logged: Logged, switch: str) -> None:
    make(trace_with, logged, "EVENT_ONLY", **{f"capture_{switch}": False})
    EchoLM("hi")("hello")
    event = logged.attributes()
    assert ("gen_ai.input.messages" in event) == (switch != "inputs")
    assert ("gen_ai.output.messages" in event) == (switch != "outputs")


def test_tools_and_other_parameters_are_structured(trace_with: TraceWith, logged: Logged) -> None:
    make(trace_with, logged, "EVENT_ONLY")
    tool = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
    EchoLM("hi")("hello", tools=[tool], logit_bias={"50256": -100})
    event = logged.attributes()
    assert event["gen_ai.tool.definitions"] == [
        {"type": "function", "name": "search", "parameters": {"type": "object"}}
    ]
    assert event["dspy.lm.parameters"] == {"logit_bias": {"50256": -100}}


def test_limits_and_redaction_hold_for_events(trace_with: TraceWith, logged: Logged) -> None:
    def redact(operation: str, field: str, value: Any) -> Any:
        return "hidden" if field == "messages" and "secret" in str(value) else value

    make(trace_with, logged, "EVENT_ONLY", redact=redact, max_content_length=200)
    EchoLM("y" * 10_000)("secret")
    event = logged.attributes()
    assert event["gen_ai.input.messages"] == "hidden"
    assert event["dspy.truncated"] == ["gen_ai.output.messages"]
    assert len(str(event["gen_ai.output.messages"])) < 400


def test_a_secret_is_in_no_event(trace_with: TraceWith, logged: Logged, server: FakeOpenAI) -> None:
    make(trace_with, logged, "EVENT_ONLY")
    key = "correct-horse-battery"
    served(server, api_key=key, extra_headers={"x-tenant": key})("hello")
    assert key not in repr(logged.attributes())


def test_an_api_without_logs_costs_the_events_only(
    trace_with: TraceWith, telemetry_log: TelemetryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.instrumentation.dspy import _events as events

    monkeypatch.setattr(events, "logs_api", None)
    traced = trace_with(capture_content="SPAN_AND_EVENT")
    assert EchoLM("hi")("hello") == ["hi"]
    assert traced.content("chat echo", "gen_ai.input.messages") == ASKED
    (warning,) = telemetry_log.take()
    assert "no events are emitted" in warning
