# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters that cannot read an answer: the fields that are at fault, and what is tried next."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from tests.support.dspy_prompts import chat_text, json_text, xml_text
from tests.support.lms import DSPY, EchoLM, Version
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
SIGNATURE = "question -> answer: str, count: int"
RIGHT = {"answer": "blue", "count": 3}


@pytest.fixture
def traced(trace_with: TraceWith) -> Traced:
    """DSPy instrumented with content on spans, and with spans for the steps of adapters."""
    return trace_with(adapter_steps="spans")


class Replying(EchoLM):
    """Answers with these texts in turn."""

    def __init__(self, *replies: str) -> None:
        super().__init__()
        self.replies = list(replies)

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self.reply = self.replies.pop(0)
        return super().forward(prompt, messages)

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return Replying.forward(self, prompt, messages)


async def ask(mode: str, adapter: dspy.Adapter, *replies: str) -> Any:
    predict = dspy.Predict(SIGNATURE)
    with dspy.context(lm=Replying(*replies), adapter=adapter):
        if mode == "sync":
            return predict(question="?")
        return await predict.acall(question="?")


def fields(traced: Traced, name: str) -> Any:
    """The fields at fault, as told by every span of a name that has some."""
    spans = [dict(span.attributes or {}) for span in traced.spans if span.name == name]
    key = "dspy.adapter.parse.error_field"
    return [attributes[key] for attributes in spans if key in attributes]


# --- fallback ---------------------------------------------------------------------------------

FALLBACK = """\
invoke_workflow Predict question -> answer, count
└─ ChatAdapter
   ├─ ChatAdapter.format
   ├─ chat echo
   ├─ ChatAdapter.parse ERROR(AdapterParseError)
   └─ JSONAdapter {dspy.adapter.fallback_from=ChatAdapter}
      ├─ JSONAdapter.format
      ├─ chat echo
      └─ JSONAdapter.parse"""


@MODES
async def test_from_chat_to_json(traced: Traced, mode: str) -> None:
    result = await ask(mode, dspy.ChatAdapter(), "nonsense", json_text(**RIGHT))
    assert (result.answer, result.count) == ("blue", 3)
    assert traced.tree("dspy.adapter.fallback_from") == FALLBACK


@MODES
async def test_inside_of_a_handler_of_the_program(traced: Traced, mode: str) -> None:
    """An exception that the program handles is not the adapter's."""
    try:
        raise LookupError("the program's own")
    except LookupError:
        await ask(mode, dspy.ChatAdapter(), chat_text(**RIGHT))
        await ask(mode, dspy.ChatAdapter(), "nonsense", json_text(**RIGHT))
    told = [(span.attributes or {}).get("dspy.adapter.fallback_from") for span in traced.spans]
    assert [adapter for adapter in told if adapter] == ["ChatAdapter"]


@pytest.mark.skipif(Version("3.2") > DSPY, reason="an empty answer is no error")
@MODES
async def test_an_empty_answer(traced: Traced, mode: str) -> None:
    """No parse step has failed then."""
    await ask(mode, dspy.ChatAdapter(), "", json_text(**RIGHT))
    assert traced.attributes("JSONAdapter")["dspy.adapter.fallback_from"] == "ChatAdapter"


@pytest.mark.skipif(Version("3.2") > DSPY, reason="takes no other LM than dspy.LM")
@MODES
async def test_an_adapter_inside_of_another_is_no_fallback(traced: Traced, mode: str) -> None:
    adapter = dspy.TwoStepAdapter(Replying(chat_text(**RIGHT)))
    try:
        raise LookupError("the program's own")
    except LookupError:
        await ask(mode, adapter, "The answer is blue, and there are three.")
    assert "ChatAdapter" in traced.names()
    told = [(span.attributes or {}).get("dspy.adapter.fallback_from") for span in traced.spans]
    assert set(told) == {None}


# --- fields -----------------------------------------------------------------------------------


@MODES
async def test_a_missing_field(traced: Traced, mode: str) -> None:
    await ask(mode, dspy.ChatAdapter(), chat_text(answer="blue"), json_text(**RIGHT))
    assert fields(traced, "ChatAdapter.parse") == [("count",)]
    assert fields(traced, "ChatAdapter") == []  # it was saved by its fallback


@MODES
async def test_a_field_of_another_type(traced: Traced, mode: str) -> None:
    wrong = chat_text(answer="blue", count="many")
    await ask(mode, dspy.ChatAdapter(), wrong, json_text(**RIGHT))
    assert fields(traced, "ChatAdapter.parse") == [("count",)]


@MODES
async def test_nothing_that_could_be_read(traced: Traced, mode: str) -> None:
    await ask(mode, dspy.ChatAdapter(), "nonsense", json_text(**RIGHT))
    assert fields(traced, "ChatAdapter.parse") == [("answer", "count")]


@MODES
async def test_json_with_a_field_missing(traced: Traced, mode: str) -> None:
    with pytest.raises(Exception, match="answer"):
        await ask(mode, dspy.JSONAdapter(), *[json_text(count=3)] * 2)
    assert set(fields(traced, "JSONAdapter.parse")) == {("answer",)}
    assert fields(traced, "JSONAdapter") == [("answer",)]


@pytest.mark.skipif(Version("3.3") > DSPY, reason="the error does not name the field")
@MODES
async def test_xml_with_a_field_of_another_type(traced: Traced, mode: str) -> None:
    adapter = dspy.XMLAdapter()
    wrong = xml_text(answer="blue", count="many")
    await ask(mode, adapter, wrong, json_text(**RIGHT))
    assert fields(traced, "XMLAdapter.parse") == [("count",)]


@MODES
async def test_names_but_no_content(trace_with: TraceWith, mode: str) -> None:
    traced = trace_with(capture_content=False, adapter_steps="spans")
    await ask(
        mode, dspy.ChatAdapter(), chat_text(answer="canary-1", count="canary-2"), json_text(**RIGHT)
    )
    assert fields(traced, "ChatAdapter.parse") == [("count",)]
    assert traced.attributes("JSONAdapter")["dspy.adapter.fallback_from"] == "ChatAdapter"
    assert "canary" not in everything_in(traced.spans)


@MODES
async def test_an_adapter_of_the_users_own(traced: Traced, mode: str) -> None:
    class Strict(dspy.ChatAdapter):
        def parse(self, signature: Any, completion: str) -> dict[str, Any]:
            raise ValueError("not like this")

    with pytest.raises(Exception, match=r"not like this|JSON"):
        await ask(mode, Strict(), *["nonsense"] * 4)
    assert fields(traced, "Strict.parse") == []
