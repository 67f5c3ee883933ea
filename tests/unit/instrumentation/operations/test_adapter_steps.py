# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The format and parse steps of adapters as attributes, which is the default."""

from __future__ import annotations

import time
from typing import Any

import dspy
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter

from tests.support.dspy_prompts import chat_text, json_text, xml_text
from tests.support.lms import DSPY, EchoLM, Version
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith
from tests.unit.instrumentation.operations.test_adapter_spans import (
    inheriting,
    of_another_tree,
    plain_acall,
    predict,
    with_super,
    without_super,
)
from tests.unit.instrumentation.operations.test_metadata_adapter import RIGHT, ask

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
MESSAGES = "dspy.adapter.message.count"
FORMAT = "dspy.adapter.format.duration"
PARSE = "dspy.adapter.parse.duration"
FIELDS = "dspy.adapter.parse.fields"
ERROR_TYPE = "dspy.adapter.parse.error_type"
ERROR_FIELD = "dspy.adapter.parse.error_field"
FROM = "dspy.adapter.fallback_from"
TO = "dspy.adapter.fallback_to"


def root_name(traced: Traced) -> str:
    (root,) = [span.name for span in traced.spans if span.parent is None]
    return root


@pytest.mark.parametrize(
    ("adapter", "write"),
    [
        (dspy.ChatAdapter, chat_text),
        (dspy.JSONAdapter, json_text),
        (dspy.XMLAdapter, xml_text),
        (BAMLAdapter, json_text),
    ],
)
@MODES
async def test_one_span_has_the_figures_of_both_steps(
    traced: Traced, adapter: Any, write: Any, mode: str
) -> None:
    with dspy.context(lm=EchoLM(write(answer="blue")), adapter=adapter()):
        assert (await predict(mode, question="?")).answer == "blue"
    name = adapter.__name__
    assert traced.tree(MESSAGES) == (
        f"{root_name(traced)}\n└─ {name} {{{MESSAGES}=2}}\n   └─ chat echo"
    )
    attributes = traced.attributes(name)
    assert 0 < attributes[FORMAT] < 5
    assert 0 < attributes[PARSE] < 5
    assert attributes[FIELDS] == ("answer",)
    assert {ERROR_TYPE, ERROR_FIELD, FROM, TO}.isdisjoint(attributes)
    assert traced.content(name, "dspy.adapter.output") == [{"answer": "blue"}]


class Slow(dspy.ChatAdapter):
    def format(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.02)
        return super().format(*args, **kwargs)

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.04)
        return super().parse(*args, **kwargs)


def test_a_step_is_measured_in_seconds_and_once_with_super(traced: Traced) -> None:
    with dspy.context(lm=EchoLM(chat_text(answer="blue")), adapter=Slow()):
        dspy.Predict("question -> answer")(question="?")
    attributes = traced.attributes("Slow")
    assert attributes[FORMAT] >= 0.02
    assert attributes[PARSE] >= 0.04
    assert isinstance(attributes[FORMAT], float)


def test_the_parse_steps_of_several_completions_add_up(traced: Traced) -> None:
    class Both(Slow):
        def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
            return [self.parse(signature, chat_text(answer=text)) for text in ("a", "b")]

    with dspy.context(lm=EchoLM(), adapter=Both()):
        dspy.Predict("question -> answer")(question="?")
    assert traced.attributes("Both")[PARSE] >= 0.08


@pytest.mark.parametrize(
    "make", [with_super, without_super, inheriting, plain_acall, of_another_tree]
)
@pytest.mark.parametrize("defined", ["before", "after"])
@MODES
async def test_adapters_of_users(trace_with: TraceWith, make: Any, defined: str, mode: str) -> None:
    early = make() if defined == "before" else None
    traced = trace_with()
    kind = early or make()
    with dspy.context(lm=EchoLM(chat_text(answer="blue")), adapter=kind()):
        assert (await predict(mode, question="?")).answer == "blue"
    assert traced.tree() == f"{root_name(traced)}\n└─ {kind.__name__}\n   └─ chat echo"
    attributes = traced.attributes(kind.__name__)
    assert attributes[MESSAGES] >= 1
    assert {FORMAT, PARSE} <= attributes.keys()
    assert attributes[FIELDS] == ("answer",)


# --- failures ---------------------------------------------------------------------------------


@MODES
async def test_a_failure_to_parse_is_on_the_span_that_a_fallback_has_saved(
    traced: Traced, mode: str
) -> None:
    result = await ask(mode, dspy.ChatAdapter(), chat_text(answer="blue"), json_text(**RIGHT))
    assert result.count == 3
    assert traced.tree(FROM, TO) == (
        f"{root_name(traced)}\n"
        f"└─ ChatAdapter {{{TO}=JSONAdapter}}\n"
        "   ├─ chat echo\n"
        f"   └─ JSONAdapter {{{FROM}=ChatAdapter}}\n"
        "      └─ chat echo"
    )
    attributes = traced.attributes("ChatAdapter")
    assert attributes[ERROR_FIELD] == ("count",)
    assert attributes[ERROR_TYPE] == "dspy.utils.exceptions.AdapterParseError"
    assert "error.type" not in attributes  # the call itself has succeeded
    (event,) = traced.span("ChatAdapter").events
    assert event.name == "exception"
    assert "count" in event.attributes["exception.message"]
    assert "AdapterParseError" in event.attributes["exception.stacktrace"]
    assert traced.attributes("JSONAdapter")[FIELDS] == ("answer", "count")
    assert traced.span("JSONAdapter").events == ()


@MODES
async def test_a_failure_that_ends_the_call_is_told_once(traced: Traced, mode: str) -> None:
    class Strict(dspy.ChatAdapter):
        def __init__(self) -> None:
            super().__init__(
                **({"use_json_adapter_fallback": False} if Version("3.1") <= DSPY else {})
            )

        def parse(self, signature: Any, completion: str) -> dict[str, Any]:
            raise ValueError("not like this")

    if Version("3.1") > DSPY:
        pytest.skip("always falls back")
    with pytest.raises(ValueError, match="not like this"):
        await ask(mode, Strict(), "nonsense")
    attributes = traced.attributes("Strict")
    assert (attributes["error.type"], attributes[ERROR_TYPE]) == ("ValueError", "ValueError")
    (event,) = traced.span("Strict").events
    assert event.attributes["exception.message"] == "not like this"
    assert "parse" in event.attributes["exception.stacktrace"]
    (above,) = traced.span(root_name(traced)).events
    assert "exception.stacktrace" not in above.attributes


@pytest.mark.skipif(Version("3.2") > DSPY, reason="an empty answer is no error")
@MODES
async def test_an_empty_answer_has_no_parse_step_and_still_a_reason(
    traced: Traced, mode: str
) -> None:
    await ask(mode, dspy.ChatAdapter(), "", json_text(**RIGHT))
    attributes = traced.attributes("ChatAdapter")
    assert attributes[ERROR_TYPE] == "dspy.utils.exceptions.AdapterParseError"
    assert attributes[TO] == "JSONAdapter"
    assert PARSE not in attributes
    (event,) = traced.span("ChatAdapter").events
    assert "empty" in event.attributes["exception.message"]


@MODES
async def test_without_content_there_are_names_and_times(trace_with: TraceWith, mode: str) -> None:
    traced = trace_with(capture_content=False)
    replies = chat_text(answer="canary-1", count="canary-2"), json_text(**RIGHT)
    await ask(mode, dspy.ChatAdapter(), *replies)
    attributes = traced.attributes("ChatAdapter")
    assert {MESSAGES, FORMAT, PARSE, ERROR_TYPE, ERROR_FIELD, TO} <= attributes.keys()
    assert "canary" not in everything_in(traced.spans)


def test_the_message_of_a_failure_is_redacted(trace_with: TraceWith) -> None:
    traced = trace_with(redact=["field:question", "field:answer", "email"])

    class Talkative(dspy.ChatAdapter):
        def parse(self, signature: Any, completion: str) -> dict[str, Any]:
            raise dspy.utils.exceptions.AdapterParseError(
                "Talkative", signature, completion, "canary-7 of a@example.com"
            )

    lm = EchoLM(json_text(answer="canary-8"))
    with dspy.context(lm=lm, adapter=Talkative()):
        dspy.Predict("question -> answer")(question="canary-7")
    assert traced.attributes("Talkative")[TO] == "JSONAdapter"
    (event,) = traced.span("Talkative").events
    assert "a@example.com" not in everything_in(traced.spans)
    assert "canary" not in everything_in(traced.spans)
    assert event.attributes["exception.message"]


# --- parents ----------------------------------------------------------------------------------


@pytest.mark.skipif(
    Version("3.2") > DSPY, reason="demands a dspy.LM as the extraction model until 3.1"
)
@MODES
async def test_an_lm_call_inside_of_parse_has_its_adapter_as_parent(
    traced: Traced, mode: str
) -> None:
    adapter = dspy.TwoStepAdapter(EchoLM(chat_text(answer="blue")))
    with dspy.context(lm=EchoLM("It is blue."), adapter=adapter):
        assert (await predict(mode, question="?")).answer == "blue"
    assert traced.tree() == (
        f"{root_name(traced)}\n"
        "└─ TwoStepAdapter\n"
        "   ├─ chat echo\n"
        "   └─ ChatAdapter\n"
        "      └─ chat echo"
    )
    assert_one_tree(traced.spans)
    assert {FROM, TO, ERROR_TYPE}.isdisjoint(traced.attributes("ChatAdapter"))
    outer, inner = traced.attributes("TwoStepAdapter"), traced.attributes("ChatAdapter")
    if mode == "sync":
        assert outer[PARSE] > inner[PARSE] > 0
        assert outer[FIELDS] == ("answer",)


def test_a_step_that_the_program_calls_itself_gets_no_span(traced: Traced) -> None:
    adapter = dspy.ChatAdapter()
    adapter.format(dspy.Signature("question -> answer"), [], {"question": "?"})
    assert adapter.parse(dspy.Signature("question -> answer"), chat_text(answer="b")) == {
        "answer": "b"
    }
    assert traced.spans == []


def test_a_step_of_another_adapter_is_part_of_the_step(traced: Traced) -> None:
    class Delegating(dspy.ChatAdapter):
        def format(self, *args: Any, **kwargs: Any) -> Any:
            return dspy.JSONAdapter().format(*args, **kwargs)

    with dspy.context(lm=EchoLM(chat_text(answer="blue")), adapter=Delegating()):
        dspy.Predict("question -> answer")(question="?")
    assert "JSONAdapter" not in traced.names()
    assert traced.attributes("Delegating")[MESSAGES] == 2


# --- no adapters at all -----------------------------------------------------------------------


@MODES
async def test_without_adapters_their_failures_are_on_the_predict(
    trace_with: TraceWith, mode: str
) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    await ask(mode, dspy.ChatAdapter(), chat_text(answer="blue"), json_text(**RIGHT))
    root = root_name(traced)
    assert traced.tree() == f"{root}\n├─ chat echo\n└─ chat echo"
    attributes = traced.attributes(root)
    assert attributes["dspy.adapter.type"] == "ChatAdapter"
    assert attributes[ERROR_TYPE] == "dspy.utils.exceptions.AdapterParseError"
    assert attributes[ERROR_FIELD] == ("count",)
    assert attributes[TO] == "JSONAdapter"
    assert "error.type" not in attributes
    (event,) = traced.span(root).events
    assert "count" in event.attributes["exception.message"]


@pytest.mark.skipif(Version("3.2") > DSPY, reason="an empty answer is no error")
@MODES
async def test_without_adapters_an_empty_answer_is_on_the_predict(
    trace_with: TraceWith, mode: str
) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    await ask(mode, dspy.ChatAdapter(), "", json_text(**RIGHT))
    attributes = traced.attributes(root_name(traced))
    assert attributes["dspy.adapter.type"] == "ChatAdapter"
    assert attributes[TO] == "JSONAdapter"
    assert len(traced.span(root_name(traced)).events) == 1


@MODES
async def test_without_adapters_a_success_leaves_no_trace_of_them(
    trace_with: TraceWith, mode: str
) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    await ask(mode, dspy.ChatAdapter(), chat_text(**RIGHT))
    attributes = traced.attributes(root_name(traced))
    assert not [name for name in attributes if name.startswith("dspy.adapter")]


@MODES
async def test_without_adapters_a_failure_that_ends_the_predict_is_told_once(
    trace_with: TraceWith, mode: str
) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    with pytest.raises(Exception, match="answer"):
        await ask(mode, dspy.JSONAdapter(), *[json_text(count=3)] * 2)
    root = traced.span(root_name(traced))
    assert root.attributes["error.type"] == root.attributes[ERROR_TYPE]
    stacks = [event.attributes["exception.stacktrace"] for event in root.events]
    assert len(stacks) == len(set(stacks))
    assert TO not in root.attributes


def test_every_attribute_of_a_step_is_there_in_one_of_the_modes(trace_with: TraceWith) -> None:
    """What the spans of format and parse have is on the adapter's span, or on the LM's."""
    names: dict[str, set[str]] = {}
    for steps in ("spans", "attributes"):
        traced = trace_with(adapter_steps=steps)
        with dspy.context(lm=EchoLM(chat_text(answer="blue"))):
            dspy.Predict("question -> answer")(question="?")
        names[steps] = {name for span in traced.spans for name in span.attributes or {}}
    assert names["spans"] - names["attributes"] == set()
    assert names["attributes"] - names["spans"] == {MESSAGES, FORMAT, PARSE, FIELDS}
