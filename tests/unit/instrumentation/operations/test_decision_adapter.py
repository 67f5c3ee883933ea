# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Decisions: ``DecisionAdapter`` around a chat adapter, and straight to a client that decides."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest

from tests.support.dspy_prompts import chat_text
from tests.support.lms import DSPY, EchoLM, Version
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = [
    pytest.mark.surface("DecisionAdapter"),
    pytest.mark.skipif(Version("3.4") > DSPY, reason="no decisions in this dspy"),
]

MODES = pytest.mark.parametrize("mode", ["sync", "async"])

THROUGH_CHAT = """\
invoke_workflow Predict text -> urgent
└─ DecisionAdapter
   └─ ChatAdapter
      └─ chat echo"""


def signature() -> Any:
    from dspy.adapters.types.decision import Noul

    fields = {
        "text": (str, dspy.InputField()),
        "urgent": (Noul, dspy.OutputField(desc="Is it urgent?")),
    }
    return dspy.Signature(fields, "Sort messages.")


async def decide(mode: str, lm: Any) -> Any:
    predict = dspy.Predict(signature())
    with dspy.context(lm=lm):
        if mode == "sync":
            return predict(text="canary")
        return await predict.acall(text="canary")


def evidence() -> str:
    return chat_text(urgent=json.dumps({"noul": 0.75}))


@MODES
async def test_through_a_chat_adapter(traced: Traced, mode: str) -> None:
    await decide(mode, EchoLM(evidence()))
    assert traced.tree() == THROUGH_CHAT
    attributes = traced.attributes("DecisionAdapter")
    assert attributes["dspy.operation"] == "adapter"
    assert attributes["dspy.adapter.type"] == "DecisionAdapter"
    assert json.loads(attributes["dspy.adapter.input"]) == {
        "demos": [],
        "inputs": {"text": "canary"},
    }
    (answer,) = json.loads(attributes["dspy.adapter.output"])
    assert "urgent" in answer
    assert "dspy.adapter.fallback_from" not in traced.attributes("ChatAdapter")
    assert_one_tree(traced.spans)


class Deciding:
    """What Predict takes for a client that decides without a prompt."""

    supports_decision_requests = True
    model = "decider"

    def __call__(self, state: Any, questions: Any) -> Any:
        return {name: {"noul": 0.25} for name in questions}

    async def acall(self, state: Any, questions: Any) -> Any:
        return self(state, questions)


@MODES
async def test_a_client_of_the_users_own(traced: Traced, mode: str) -> None:
    await decide(mode, Deciding())
    assert traced.tree() == "invoke_workflow Predict text -> urgent\n└─ DecisionAdapter"


@MODES
async def test_evidence_that_cannot_be_read(traced: Traced, mode: str) -> None:
    with pytest.raises(Exception, match="urgent"):
        await decide(mode, EchoLM("nonsense"))
    assert "DecisionAdapter ERROR(AdapterParseError)" in traced.tree()
    fields = traced.attributes("DecisionAdapter")["dspy.adapter.parse.error_field"]
    assert fields == ("urgent",)


@MODES
async def test_without_content(trace_with: TraceWith, mode: str) -> None:
    traced = trace_with(capture_content=False)
    await decide(mode, EchoLM(evidence()))
    assert traced.tree() == THROUGH_CHAT
    assert "canary" not in everything_in(traced.spans)


def test_without_intermediate_steps(trace_with: TraceWith) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    with dspy.context(lm=EchoLM(evidence())):
        dspy.Predict(signature())(text="t")
    assert traced.tree() == "invoke_workflow Predict text -> urgent\n└─ chat echo"
