# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The programs that are measured. Their language model answers without a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from benchmarks.instant_lm import instant_lm

QUESTION = "Which tower is 330 metres tall?"
CONTEXT = ["The Eiffel Tower in Paris is 330 metres tall.", "Tokyo Tower is 333 metres tall."]
LONG_TEXT = CONTEXT[0] * (100_000 // len(CONTEXT[0]))
ANSWER = {"answer": "The Eiffel Tower"}
REASONED = {"reasoning": "The context says so.", **ANSWER}


@dataclass(frozen=True)
class Program:
    """A call to measure, and its language model."""

    name: str
    run: Callable[[], Any]
    lm: Any

    def calls(self, count: int, after: Callable[[], Any] | None = None) -> None:
        """Run the program this many times in this thread, each time followed by ``after``."""
        with dspy.context(lm=self.lm):
            for _ in range(count):
                self.run()
                if after is not None:
                    after()


class _RAG(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.search = dspy.Predict("question -> query")
        self.generate = dspy.ChainOfThought("context, question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        self.search(question=question)
        return self.generate(context=CONTEXT, question=question)


class _Level(dspy.Module):
    """A module that calls an inner module, if it has one."""

    def __init__(self, inner: dspy.Module | None) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, question: str) -> Any:
        return QUESTION if self.inner is None else self.inner(question=question)


def _height(tower: str) -> str:
    """Height of a tower."""
    return f"{tower}: 330 metres"


def _predict() -> tuple[Callable[[], Any], list[Mapping[str, Any]]]:
    predict = dspy.Predict("question -> answer")
    return lambda: predict(question=QUESTION), [ANSWER]


def _rag() -> tuple[Callable[[], Any], list[Mapping[str, Any]]]:
    rag = _RAG()
    return lambda: rag(question=QUESTION), [{"query": "330 metres"}, REASONED]


def _react() -> tuple[Callable[[], Any], list[Mapping[str, Any]]]:
    react = dspy.ReAct("question -> answer", tools=[dspy.Tool(_height, name="height")])
    steps = [_step("height", {"tower": "Eiffel Tower"}), _step("finish", {})]
    return lambda: react(question=QUESTION), [*steps, REASONED]


def _long_context() -> tuple[Callable[[], Any], list[Mapping[str, Any]]]:
    predict = dspy.Predict("context, question -> answer")
    return lambda: predict(context=LONG_TEXT, question=QUESTION), [ANSWER]


def _step(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"next_thought": "Next.", "next_tool_name": tool, "next_tool_args": arguments}


def _nested(depth: int) -> tuple[Callable[[], Any], list[Mapping[str, Any]]]:
    module: dspy.Module = _Level(None)
    for _ in range(depth - 1):
        module = _Level(module)
    return lambda: module(question=QUESTION), [ANSWER]


_NAMED: dict[str, Callable[[], tuple[Callable[[], Any], list[Mapping[str, Any]]]]] = {
    "Predict": _predict,
    "RAG": _rag,
    "ReAct": _react,
    "100 kB": _long_context,
}


def program(name: str, delay: float = 0.0) -> Program:
    """Make a program by its name; ``nested 4`` is four nested modules, without an LM.

    Args:
        name: ``Predict``; ``RAG``, three modules and two LM calls; ``ReAct``, with one tool call;
            ``100 kB``, the size of its context; or ``nested`` and a depth of at least 1.
        delay: Seconds that each LM call takes.
    """
    if name.startswith("nested "):
        run, answers = _nested(int(name.removeprefix("nested ")))
    else:
        run, answers = _NAMED[name]()
    return Program(name, run, instant_lm(answers, delay))
