# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Threads of the program's own: the documented ways to keep one tree through them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.memory import span_memory
from tests.support.prompt_lm import PromptLM
from tests.support.span_tree import assert_one_tree, spans_named

pytestmark = pytest.mark.surface("threads of a program")


class Fanning(dspy.Module):
    """Asks four questions in threads of its own, and one through DSPy's."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        lm = dspy.settings.lm

        def ask(number: int) -> Any:
            with dspy.context(lm=lm):
                return self.answer(question=f"{question} {number}")

        with ThreadPoolExecutor(max_workers=4) as pool:
            answers = list(pool.map(ask, range(4)))
        example = dspy.Example(question=question).with_inputs("question")
        answers += self.answer.batch([example], num_threads=2, disable_progress_bar=True)
        return dspy.Prediction(answers=[answer.answer for answer in answers])


@pytest.fixture
def threads_instrumented() -> Iterator[None]:
    module = pytest.importorskip("opentelemetry.instrumentation.threading")
    instrumentor = module.ThreadingInstrumentor()
    instrumentor.instrument()
    try:
        yield
    finally:
        instrumentor.uninstrument()


@pytest.mark.usefixtures("threads_instrumented")
def test_with_the_threading_instrumentation_it_is_one_tree() -> None:
    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        with dspy.context(lm=PromptLM(answers=["a"])):
            result = Fanning()(question="q")
    finally:
        DSPyInstrumentor().uninstrument()
    assert result.answers == ["a"] * 5
    spans = exporter.get_finished_spans()
    assert assert_one_tree(spans).name == "invoke_workflow Fanning"
    assert len(spans_named(spans, "chat prompt-lm")) == 5
    assert len(spans_named(spans, "Predict answer")) == 5


class Copying(dspy.Module):
    """Asks in threads of its own, each task in a copy of the context; the LM comes along."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        def ask(number: int) -> str:
            return self.answer(question=f"{question} {number}").answer

        with ThreadPoolExecutor(max_workers=4) as pool:
            futures = [pool.submit(copy_context().run, ask, number) for number in range(4)]
        return dspy.Prediction(answers=[future.result() for future in futures])


def test_with_a_copy_of_the_context_it_is_one_tree() -> None:
    provider, exporter = span_memory()
    DSPyInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        with dspy.context(lm=PromptLM(answers=["a"])):
            result = Copying()(question="q")
    finally:
        DSPyInstrumentor().uninstrument()
    assert result.answers == ["a"] * 4
    spans = exporter.get_finished_spans()
    assert assert_one_tree(spans).name == "invoke_workflow Copying"
    assert len(spans_named(spans, "chat prompt-lm")) == 4
