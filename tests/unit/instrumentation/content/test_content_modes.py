# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What is recorded in each content mode and with each switch."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy import ContentMode
from tests.support.lms import DummyLM
from tests.support.registry import CONTENT, JSON_CONTENT
from tests.support.traced import Traced, everything_in, uninstrument
from tests.unit.instrumentation.conftest import TraceWith

CANARY = "canary-4711"
GENAI = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
DSPY_ENV = "OTEL_INSTRUMENTATION_DSPY_"


class Failing(dspy.Module):
    def forward(self, reason: str) -> None:
        raise ValueError(f"failed for {reason}")


class Everything(dspy.Module):
    """Has data of the program in every place that can hold any."""

    def __init__(self) -> None:
        super().__init__()
        signature = dspy.Signature("question -> answer", f"Instruct {CANARY}")
        self.think = dspy.ChainOfThought(signature)
        self.think.predict.demos = [dspy.Example(question=CANARY, reasoning=CANARY, answer=CANARY)]
        self.agent = dspy.ReAct("question -> answer", tools=[self.find])
        self.failing = Failing()

    def find(self, query: str) -> str:
        """Finds things."""
        if query == "nothing":
            raise LookupError(f"nothing like {CANARY}")
        return f"{query} {CANARY}"

    def forward(self, question: str) -> Any:
        self.think(question=question)
        result = self.agent(question=question)
        try:
            self.failing(reason=CANARY)
        except ValueError:
            return result


def run() -> Any:
    answers = [
        {"reasoning": CANARY, "answer": CANARY},
        {"next_thought": CANARY, "next_tool_name": "find", "next_tool_args": {"query": CANARY}},
        {"next_thought": "t", "next_tool_name": "find", "next_tool_args": {"query": "nothing"}},
        {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": CANARY, "answer": CANARY},
    ]
    with dspy.context(lm=DummyLM(answers)):
        return Everything()(question=CANARY)


# Content of operations that this program has none of.
ELSEWHERE = (
    "dspy.embedder.",
    "dspy.evaluate.",
    "dspy.example.",
    "dspy.interpreter.",
    "dspy.lm.parameters",
    "dspy.metric.",
    "dspy.retrieval.arguments",
    "exception.",
    "gen_ai.evaluation.",
    "gen_ai.retrieval.",
    "gen_ai.system_instructions",
)


def content_names(traced: Traced) -> set[str]:
    return {name for span in traced.spans for name in span.attributes or {} if name in CONTENT}


@pytest.mark.parametrize(
    "mode", [False, "NO_CONTENT", ContentMode.NO_CONTENT, "EVENT_ONLY", ContentMode.EVENT_ONLY]
)
def test_without_content_no_canary_anywhere(trace_with: TraceWith, mode: Any) -> None:
    traced = trace_with(capture_content=mode)
    assert CANARY in run().answer
    assert CANARY not in everything_in(traced.spans)
    assert content_names(traced) == set()
    failed = [span for span in traced.spans if not span.status.is_ok]
    assert {(span.attributes or {})["error.type"] for span in failed} == {
        "LookupError",
        "ValueError",
    }
    assert {span.status.description for span in failed} == {None}
    assert {tuple(event.attributes or ()) for span in failed for event in span.events} == {
        ("exception.type",)
    }


@pytest.mark.parametrize(
    "mode", [True, "true", "SPAN_ONLY", "span_and_event", ContentMode.SPAN_ONLY]
)
def test_with_content_every_place_has_it(trace_with: TraceWith, mode: Any) -> None:
    traced = trace_with(capture_content=mode)
    run()
    assert content_names(traced) == {name for name in CONTENT if not name.startswith(ELSEWHERE)}


def test_unset_is_no_content(trace_with: TraceWith) -> None:
    traced = trace_with(capture_content=None)
    run()
    assert CANARY not in everything_in(traced.spans)


@pytest.mark.parametrize(
    ("value", "recorded"), [("true", True), ("SPAN_ONLY", True), ("false", False), ("", False)]
)
def test_the_environment_decides_where_no_argument_does(
    trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch, value: str, recorded: bool
) -> None:
    monkeypatch.setenv(GENAI, value)
    traced = trace_with(capture_content=None)
    run()
    assert (CANARY in everything_in(traced.spans)) is recorded


INPUTS = {
    "dspy.module.input",
    "dspy.adapter.input",
    "gen_ai.input.messages",
    "gen_ai.tool.call.arguments",
}
OUTPUTS = {
    "dspy.module.output",
    "dspy.adapter.output",
    "gen_ai.output.messages",
    "gen_ai.tool.call.result",
}


@pytest.mark.parametrize("how", ["argument", "environment"])
@pytest.mark.parametrize(
    ("switch", "gone"), [("capture_inputs", INPUTS), ("capture_outputs", OUTPUTS)]
)
def test_inputs_and_outputs_are_turned_off(
    trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch, switch: str, gone: set[str], how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv(DSPY_ENV + switch.upper(), "false")
    traced = trace_with(**({switch: False} if how == "argument" else {}))
    run()
    assert content_names(traced) & (INPUTS | OUTPUTS) == (INPUTS | OUTPUTS) - gone


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_signatures_are_turned_off(
    trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv(f"{DSPY_ENV}CAPTURE_SIGNATURES", "0")
    traced = trace_with(**({"capture_signatures": False} if how == "argument" else {}))
    run()
    names = {name for span in traced.spans for name in span.attributes or {}}
    assert [name for name in names if "signature" in name] == []


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_intermediate_steps_are_turned_off(
    trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "environment":
        monkeypatch.setenv(f"{DSPY_ENV}CAPTURE_INTERMEDIATE_STEPS", "false")
    traced = trace_with(**({"capture_intermediate_steps": False} if how == "argument" else {}))
    run()
    assert not any("Adapter" in name for name in traced.names())


def test_an_argument_wins_over_the_environment(
    trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GENAI, "true")
    monkeypatch.setenv(f"{DSPY_ENV}CAPTURE_INPUTS", "false")
    traced = trace_with(capture_content=False, capture_inputs=True)
    run()
    assert CANARY not in everything_in(traced.spans)


def test_one_line_at_the_start_states_the_mode(
    trace_with: TraceWith, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "opentelemetry.instrumentation.dspy"):
        trace_with(capture_content=False)
    (line,) = [record.message for record in caplog.records if "content" in record.message]
    assert "NO_CONTENT" in line
    assert GENAI in line


def test_settings_are_those_of_the_time_of_instrumenting(
    trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = trace_with(capture_content=None)
    monkeypatch.setenv(GENAI, "true")
    run()
    assert CANARY not in everything_in(traced.spans)
    uninstrument()
    traced.instrument()
    run()
    assert CANARY in everything_in(traced.spans)


def assert_json_within(traced: Traced, limit: int) -> None:
    recorded = [
        (name, str(value))
        for span in traced.spans
        for name, value in (span.attributes or {}).items()
        if name in JSON_CONTENT
    ]
    assert recorded
    for _, text in recorded:
        assert len(text) <= limit
        json.loads(text)


class Long(dspy.Module):
    def forward(self, question: str) -> str:
        return question


SDK_LIMITS = ["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"]


@pytest.mark.parametrize("name", SDK_LIMITS)
@pytest.mark.parametrize("limit", [1_000, 40])
@pytest.mark.parametrize("argument", [None, 100_000])
def test_the_limit_of_the_sdk_cuts_no_json(
    trace_with: TraceWith,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    limit: int,
    argument: int | None,
) -> None:
    monkeypatch.setenv(name, str(limit))
    traced = trace_with(max_content_length=argument)
    Long()(question="x" * 5_000)
    assert_json_within(traced, limit)


def test_our_own_limit(trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{DSPY_ENV}MAX_CONTENT_LENGTH", "500")
    traced = trace_with()
    Long()(question="x" * 5_000)
    assert_json_within(traced, 500)
    assert traced.attributes("invoke_workflow Long")["dspy.truncated"] == (
        "dspy.module.input",
        "dspy.module.output",
    )
