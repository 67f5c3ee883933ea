# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import dspy
import pytest
from packaging.version import Version

from tests.support.instrumented import TraceWith
from tests.support.lms import DSPY
from tests.support.prompt_lm import PromptLM
from tests.support.span_tree import assert_one_tree

pytestmark = [
    pytest.mark.surface("ChainOfThought"),
    pytest.mark.skipif(
        Version("3.4") > DSPY,
        reason="dspy < 3.4: no LocalInterpreter, and Flex in a sandbox needs Deno",
    ),
]


def flexible() -> Any:
    return dspy.Flex("question -> answer", interpreter_factory=dspy.LocalInterpreter)(
        question="?"
    ).answer


def test_one_tree(trace_with: TraceWith) -> None:
    with dspy.context(lm=PromptLM()):
        plain = flexible()
        traced = trace_with(capture_intermediate_steps=False)
        assert flexible() == plain
    assert assert_one_tree(traced.spans).name == "invoke_workflow Flex"
    assert {"run_code LocalInterpreter", "chat prompt-lm"} <= set(traced.names())
    assert all(span.status.is_ok for span in traced.spans)
