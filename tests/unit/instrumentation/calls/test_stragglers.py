# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Work that DSPy gives up waiting for and does a second time, while the first goes on."""

from __future__ import annotations

import threading
from typing import Any

import dspy
import pytest
from dspy.utils.parallelizer import ParallelExecutor

from tests.support.lms import EchoLM
from tests.support.memory import SpanWatch, watched_spans
from tests.support.span_tree import assert_one_tree
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("ParallelExecutor")


class Slow(EchoLM):
    """Its first answer to ``q0`` comes when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self._first = threading.Lock()

    def __deepcopy__(self, memo: Any) -> Slow:
        return self

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        if "q0" in str(messages) and self._first.acquire(blocking=False):
            assert self.let_go.wait(60)
        return super().forward(prompt, messages, **kwargs)


def run(lm: Slow) -> list[Any]:
    def answer(number: int) -> str:
        with dspy.context(lm=lm):
            return dspy.Predict("question -> answer")(question=f"q{number}").answer

    executor = ParallelExecutor(
        num_threads=2, timeout=1, straggler_limit=2, disable_progress_bar=True, max_errors=1
    )
    return executor.execute(answer, [0, 1, 2])


def ended_when_let_go(watch: SpanWatch, lm: Slow, parent: Any) -> list[Any]:
    early = {span.context.span_id for span in watch.so_far() if span.context}
    lm.let_go.set()
    late = [span for span in watch.ended() if span.context and span.context.span_id not in early]
    assert all((span.end_time or 0) > parent.end_time for span in late)
    return late


def test_the_second_run_and_the_first_are_in_one_trace(trace_with: TraceWith) -> None:
    with watched_spans() as watch:
        traced = trace_with(capture_intermediate_steps=False)
        lm = Slow()
        with traced.tracer.start_as_current_span("request"):
            assert run(lm) == ["blue"] * 3
        request = traced.span("request")
        late = ended_when_let_go(watch, lm, request)
    assert sorted(span.name for span in late) == [
        "chat echo",
        "invoke_workflow Predict question -> answer",
    ]
    assert assert_one_tree(traced.spans).name == "request"
    assert traced.names().count("invoke_workflow Predict question -> answer") == 4  # q0 twice
    assert all(span.status.is_ok for span in traced.spans)


def test_without_a_parent_each_is_a_trace_of_its_own(trace_with: TraceWith) -> None:
    with watched_spans() as watch:
        traced = trace_with(capture_intermediate_steps=False)
        lm = Slow()
        assert run(lm) == ["blue"] * 3
        lm.let_go.set()
        spans = watch.ended()
    roots = [span for span in spans if span.parent is None]
    assert [span.name for span in roots] == ["invoke_workflow Predict question -> answer"] * 4
    assert len(traced.spans) == 8
