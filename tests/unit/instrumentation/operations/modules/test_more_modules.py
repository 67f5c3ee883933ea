# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""DSPy's less common modules: one tree each, with the same results as without us."""

from __future__ import annotations

from typing import Any

import dspy
import numpy as np
import pytest

from tests.support.prompt_lm import PromptLM
from tests.support.span_tree import assert_one_tree
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("ChainOfThought")

QA = "question -> answer"


def embed(texts: list[str]) -> Any:
    return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def compare_chains() -> Any:
    compare = dspy.MultiChainComparison(QA, M=2)
    attempts = [dspy.Prediction(rationale="Because.", answer=answer) for answer in "ab"]
    return compare(attempts, question="?").answer


CHAINS = """\
invoke_workflow MultiChainComparison \
question, reasoning_attempt_1, reasoning_attempt_2 -> rationale…
└─ Predict
   └─ chat prompt-lm"""


def nearest_demos() -> Any:
    examples = [dspy.Example(question="q" * n, answer="a").with_inputs("question") for n in (1, 2)]
    optimizer = dspy.KNNFewShot(k=1, trainset=examples, vectorizer=embed)
    program = optimizer.compile(dspy.Predict(QA))
    return program(question="qq").answer


def test_one_tree(trace_with: TraceWith) -> None:
    with dspy.context(lm=PromptLM()):
        plain = compare_chains()
        traced = trace_with(capture_intermediate_steps=False)
        assert compare_chains() == plain
    root = assert_one_tree(traced.spans)
    assert root.name.startswith("invoke_workflow MultiChainComparison question, ")
    assert "Predict" in traced.names()
    assert all(span.status.is_ok for span in traced.spans)


def test_the_tree_of_a_comparison(trace_with: TraceWith) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    with dspy.context(lm=PromptLM()):
        compare_chains()
    assert traced.tree() == CHAINS


def test_a_program_that_compiles_itself_at_each_call(trace_with: TraceWith) -> None:
    """KNNFewShot's programs look for demos, and compile, when they are called."""
    with dspy.context(lm=PromptLM()):
        plain = nearest_demos()
        traced = trace_with(capture_intermediate_steps=False)
        assert nearest_demos() == plain
    roots = [span.name for span in traced.spans if span.parent is None]
    assert roots == ["compile KNNFewShot", "invoke_workflow Predict question -> answer"]
    called = [span for span in traced.spans if span.parent is not None]
    assert {"retrieval KNN", "compile BootstrapFewShot"} <= {span.name for span in called}
    assert len({span.context.trace_id for span in traced.spans if span.context}) == 2
