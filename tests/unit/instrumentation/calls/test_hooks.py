# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The hooks of ``instrument()``: when they are called, with what, and that they break nothing."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Span, StatusCode

from opentelemetry.instrumentation.dspy import DSPyCall, DSPyInstrumentor
from tests.support.lms import EchoLM, FailingLM
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.generate(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.generate.acall(question=question)


async def call(program: Any, mode: str, **kwargs: Any) -> Any:
    with dspy.context(lm=EchoLM()):
        return program(**kwargs) if mode == "sync" else await program.acall(**kwargs)


NAMES = ["module", "predict", "adapter", "lm"]


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_request_hook_comes_first(trace_with: TraceWith, mode: str) -> None:
    seen: list[tuple[str, bool, str | None, str | None]] = []

    def request_hook(span: Span, call: DSPyCall) -> None:
        current = trace.get_current_span() is span
        parent = call.parent.operation_name if call.parent is not None else None
        seen.append((call.operation_name, current, parent, call.path))
        span.set_attribute("user.id", call.operation_name)

    traced = trace_with(request_hook=request_hook)
    await call(Program(), mode, question="?")
    assert seen == [
        ("module", True, None, None),
        ("predict", True, "module", "generate"),
        ("adapter", True, "predict", None),
        ("lm", True, "adapter", None),
    ]
    assert all((span.attributes or {})["user.id"] in NAMES for span in traced.spans)


def test_it_is_shown_the_objects_of_the_program(trace_with: TraceWith) -> None:
    program, question, seen = Program(), ["?"], []

    def request_hook(span: Span, call: DSPyCall) -> None:
        seen.append((call.instance, call.args, dict(call.kwargs)))

    trace_with(request_hook=request_hook)
    with dspy.context(lm=EchoLM()):
        program(question=question)
    assert seen[0][0] is program
    assert seen[0][1] == ()
    assert seen[0][2]["question"] is question
    assert seen[1][0] is program.generate


def test_it_may_replace_what_is_recorded(trace_with: TraceWith) -> None:
    def request_hook(span: Span, call: DSPyCall) -> None:
        if call.operation_name == "module":
            span.set_attribute("dspy.module.input", '"mine"')

    traced = trace_with(request_hook=request_hook)
    with dspy.context(lm=EchoLM()):
        Program()(question="?")
    assert traced.content("invoke_workflow Program", "dspy.module.input") == "mine"


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_response_hook_has_the_result(trace_with: TraceWith, mode: str) -> None:
    seen: list[tuple[str, Any]] = []

    def response_hook(span: Span, call: DSPyCall, result: Any) -> None:
        assert span.is_recording()
        assert trace.get_current_span() is span
        assert "question" in call.kwargs or call.operation_name not in ("module", "predict")
        seen.append((call.operation_name, result))

    traced = trace_with(response_hook=response_hook)
    prediction = await call(Program(), mode, question="?")
    assert [name for name, _ in seen] == NAMES[::-1]
    assert seen[-1][1] is prediction
    assert traced.content("invoke_workflow Program", "dspy.module.output") == {"answer": "blue"}


def test_it_may_replace_what_is_recorded_of_the_result(trace_with: TraceWith) -> None:
    def response_hook(span: Span, call: DSPyCall, result: Any) -> None:
        if call.operation_name == "module":
            span.set_attribute("dspy.module.output", '"mine"')

    traced = trace_with(response_hook=response_hook)
    with dspy.context(lm=EchoLM()):
        Program()(question="?")
    assert traced.content("invoke_workflow Program", "dspy.module.output") == "mine"


def test_a_failed_call_has_no_response(trace_with: TraceWith) -> None:
    requested: list[str] = []
    responded: list[str] = []
    trace_with(
        request_hook=lambda span, call: requested.append(call.operation_name),
        response_hook=lambda span, call, result: responded.append(call.operation_name),
    )
    with pytest.raises(TimeoutError):
        FailingLM(lambda: TimeoutError("too late"))("hello")
    assert (requested, responded) == (["lm"], [])


def test_a_call_that_is_over_holds_nothing(trace_with: TraceWith) -> None:
    calls: list[DSPyCall] = []
    trace_with(request_hook=lambda span, call: calls.append(call))
    with dspy.context(lm=EchoLM()):
        Program()(question="?")
    assert [(call.args, dict(call.kwargs)) for call in calls] == [((), {})] * 4
    assert [call.operation_name for call in calls] == NAMES


def test_not_for_spans_that_are_not_recorded(trace_with: TraceWith) -> None:
    seen: list[Any] = []
    trace_with(
        sampler=ALWAYS_OFF,
        request_hook=lambda span, call: seen.append(call),
        response_hook=lambda span, call, result: seen.append(call),
    )
    with dspy.context(lm=EchoLM()):
        Program()(question="?")
    assert seen == []


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("which", ["request_hook", "response_hook"])
async def test_what_a_hook_raises_is_dropped(
    trace_with: TraceWith, telemetry_log: TelemetryLog, which: str, mode: str
) -> None:
    def broken(*shown: Any) -> None:
        raise RuntimeError("hook is broken")

    traced = trace_with(**{which: broken})
    assert (await call(Program(), mode, question="?")).answer == "blue"
    assert (await call(Program(), mode, question="?")).answer == "blue"
    assert len(telemetry_log.take()) == 1
    assert len(traced.spans) == 8
    assert {span.status.status_code for span in traced.spans} == {StatusCode.UNSET}
    output = traced.spans[-1].attributes or {}
    assert output["dspy.module.output"] == '{"answer":"blue"}'


@pytest.mark.parametrize("which", ["request_hook", "response_hook"])
def test_a_hook_does_not_hold_up_what_stops_the_program(trace_with: TraceWith, which: str) -> None:
    def interrupted(*shown: Any) -> None:
        raise KeyboardInterrupt

    traced = trace_with(**{which: interrupted})
    with pytest.raises(KeyboardInterrupt):
        EchoLM("hi")("hello")
    assert traced.span("chat echo").end_time is not None
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("which", ["request_hook", "response_hook"])
def test_what_is_no_function_is_refused(which: str) -> None:
    with pytest.raises(ValueError, match=which):
        DSPyInstrumentor().instrument(**{which: "print"})
