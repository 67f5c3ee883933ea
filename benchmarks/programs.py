# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The programs that are measured. Their language model answers at once, without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.dummies import DummyLM

QUESTION = "Which tower is 330 metres tall?"
CONTEXT = ["The Eiffel Tower in Paris is 330 metres tall.", "Tokyo Tower is 333 metres tall."]


@dataclass(frozen=True)
class Program:
    """A call to measure, and the answers that its language model gives to one such call."""

    name: str
    run: Callable[[], Any]
    answers: tuple[dict[str, Any], ...]

    def __call__(self) -> Any:
        with dspy.context(lm=DummyLM([dict(answer) for answer in self.answers])):
            return self.run()


class _RAG(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.search = dspy.Predict("question -> query")
        self.generate = dspy.ChainOfThought("context, question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        self.search(question=question)
        return self.generate(context=CONTEXT, question=question)


def _height(tower: str) -> str:
    """Height of a tower."""
    return f"{tower}: 330 metres"


def programs() -> tuple[Program, ...]:
    """Predict; RAG with three modules and two LM calls; ReAct with one tool call."""
    predict = dspy.Predict("question -> answer")
    rag = _RAG()
    react = dspy.ReAct("question -> answer", tools=[dspy.Tool(_height, name="height")])
    long_context = dspy.Predict("context, question -> answer")
    text = CONTEXT[0] * (100_000 // len(CONTEXT[0]))
    answer = {"answer": "The Eiffel Tower"}
    reasoned = {"reasoning": "The context says so.", **answer}
    return (
        Program("Predict", lambda: predict(question=QUESTION), (answer,)),
        Program("RAG", lambda: rag(question=QUESTION), ({"query": "330 metres"}, reasoned)),
        Program(
            "ReAct",
            lambda: react(question=QUESTION),
            (
                _step("height", {"tower": "Eiffel Tower"}),
                _step("finish", {}),
                reasoned,
            ),
        ),
        Program("100 kB", lambda: long_context(context=text, question=QUESTION), (answer,)),
    )


def _step(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"next_thought": "Next.", "next_tool_name": tool, "next_tool_args": arguments}
