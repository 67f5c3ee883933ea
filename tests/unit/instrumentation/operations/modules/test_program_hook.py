# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``program_hook``: the outermost module of each trace, with its hash and its description."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy import load_settings, program_hash
from tests.support.prompt_lm import PromptLM
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

SECRET = "sk-canary-3"


class RAG(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict(
            dspy.Signature("question: str, k: int -> answer: list[str]", "Answer briefly.")
        )
        self.answer.demos = [dspy.Example(question="old", k=1, answer=["a"])]

    def forward(self, question: str) -> Any:
        return dspy.Prediction(answer=question)

    async def aforward(self, question: str) -> Any:
        return dspy.Prediction(answer=question)


class Hook:
    def __init__(self) -> None:
        self.seen: list[tuple[Any, str, str | None]] = []

    def __call__(self, span: Any, digest: str, describe: Callable[[], str | None]) -> None:
        self.seen.append((span, digest, describe()))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_outermost_module_is_shown(trace_with: TraceWith, asynchronous: bool) -> None:
    hook, program = Hook(), RAG()
    lm: Any = PromptLM(answers=["a"])
    lm.kwargs["api_key"] = SECRET
    program.set_lm(lm)
    traced = trace_with(program_hook=hook)
    if asynchronous:
        asyncio.run(program.acall(question="hi"))
    else:
        program(question="hi")
    [(span, digest, text)] = hook.seen
    [root] = traced.spans
    assert span.get_span_context() == root.context
    assert digest == (root.attributes or {})["dspy.program.hash"] == program_hash(program)
    described = json.loads(str(text))
    assert described["class"] == f"{__name__}:RAG"
    assert described["dspy_version"] == dspy.__version__
    assert described["predictors"] == {
        "answer": {
            "class": "dspy.predict.predict:Predict",
            "signature": "question: str, k: int -> answer: list[str]",
            "instructions": "Answer briefly.",
        }
    }
    state = described["state"]["answer"]
    assert state["demos"] == [{"question": "old", "k": 1, "answer": ["a"]}]
    assert (state["lm"], state["traces"], state["train"]) == (None, [], [])
    assert SECRET not in str(text)


def test_modules_inside_are_not_shown_again(trace_with: TraceWith) -> None:
    hook = Hook()
    trace_with(program_hook=hook)
    with dspy.context(lm=PromptLM(answers=["a"])):
        dspy.ChainOfThought("question -> answer")(question="hi")
    assert len(hook.seen) == 1


def test_the_description_is_redacted(trace_with: TraceWith) -> None:
    hook, program = Hook(), RAG()
    program.answer.demos = [dspy.Example(question="ada@example.org", k=1, answer=["a"])]
    trace_with(program_hook=hook, redact="email")
    program(question="hi")
    assert "ada@example.org" not in str(hook.seen[0][2])


def test_a_hook_that_raises_is_logged_once_and_changes_nothing(
    trace_with: TraceWith, telemetry_log: TelemetryLog
) -> None:
    def raising(*_: object) -> None:
        raise RuntimeError("no")

    trace_with(program_hook=raising)
    program = RAG()
    assert [program(question="hi").answer for _ in range(2)] == ["hi", "hi"]
    assert len(telemetry_log.take()) == 1


def test_the_hook_may_be_named() -> None:
    assert load_settings(program_hook="json:dumps").program_hook is json.dumps
    with pytest.raises(ValueError, match="program_hook"):
        load_settings(program_hook="no.such:hook")


def test_a_program_without_predictors_is_not_shown(trace_with: TraceWith) -> None:
    class Plain(dspy.Module):
        def forward(self) -> Any:
            return dspy.Prediction()

    hook = Hook()
    trace_with(program_hook=hook)
    Plain()()
    assert hook.seen == []
