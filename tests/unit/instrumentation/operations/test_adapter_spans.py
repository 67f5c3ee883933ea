# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters: spans of the call, its format and its parse, once each, DSPy's own and users'."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter

from tests.support.dspy_prompts import chat_text, json_text, xml_text
from tests.support.lms import DSPY, EchoLM, Version, answering
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = [pytest.mark.surface("adapter"), pytest.mark.surface("adapter format and parse")]

QA = "question -> answer"


@pytest.fixture
def traced(trace_with: TraceWith) -> Traced:
    """DSPy instrumented with content on spans, and with spans for the steps of adapters."""
    return trace_with(adapter_steps="spans")


async def predict(mode: str, **inputs: Any) -> Any:
    module = dspy.Predict(QA)
    return module(**inputs) if mode == "sync" else await module.acall(**inputs)


TREE = """\
invoke_workflow Predict question -> answer
└─ {0}
   ├─ {0}.format
   ├─ chat echo
   └─ {0}.parse"""


@pytest.mark.parametrize(
    ("adapter", "write"),
    [
        (dspy.ChatAdapter, chat_text),
        (dspy.JSONAdapter, json_text),
        (dspy.XMLAdapter, xml_text),
        (BAMLAdapter, json_text),
    ],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_dspys_own(traced: Traced, adapter: Any, write: Any, mode: str) -> None:
    with dspy.context(lm=EchoLM(write(answer="blue")), adapter=adapter()):
        assert (await predict(mode, question="?")).answer == "blue"
    assert traced.tree() == TREE.format(adapter.__name__)


def test_what_is_recorded(traced: Traced) -> None:
    with dspy.context(lm=EchoLM(chat_text(answer="blue"))):
        demo = dspy.Example(question="sky?", answer="blue").with_inputs("question")
        dspy.Predict(QA)(question="sea?", demos=[demo])
    given = traced.content("ChatAdapter", "dspy.adapter.input")
    assert given == {
        "demos": [{"question": "sky?", "answer": "blue"}],
        "inputs": {"question": "sea?"},
    }
    assert traced.content("ChatAdapter", "dspy.adapter.output") == [{"answer": "blue"}]
    assert traced.content("ChatAdapter.format", "dspy.adapter.input") == given
    messages = traced.content("ChatAdapter.format", "dspy.adapter.output")
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    completion = chat_text(answer="blue")
    assert traced.content("ChatAdapter.parse", "dspy.adapter.input") == {"completion": completion}
    assert traced.content("ChatAdapter.parse", "dspy.adapter.output") == {"answer": "blue"}
    assert {
        (span.attributes or {}).get("dspy.adapter.type")
        for span in traced.spans
        if span.name.startswith("Chat")
    } == {"ChatAdapter"}


TWO_STEPS = {
    # The second call happens inside of parse().
    "sync": """\
invoke_workflow Predict question -> answer
└─ TwoStepAdapter
   ├─ TwoStepAdapter.format
   ├─ chat echo
   └─ TwoStepAdapter.parse
      └─ ChatAdapter
         ├─ ChatAdapter.format
         ├─ chat echo
         └─ ChatAdapter.parse""",
    # acall() has a body of its own, which parses with the other adapter only.
    "async": """\
invoke_workflow Predict question -> answer
└─ TwoStepAdapter
   ├─ TwoStepAdapter.format
   ├─ chat echo
   └─ ChatAdapter
      ├─ ChatAdapter.format
      ├─ chat echo
      └─ ChatAdapter.parse""",
}


@pytest.mark.skipif(
    Version("3.2") > DSPY, reason="demands a dspy.LM as the extraction model until 3.1"
)
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_two_steps(traced: Traced, mode: str) -> None:
    adapter = dspy.TwoStepAdapter(EchoLM(chat_text(answer="blue")))
    with dspy.context(lm=EchoLM("It is blue."), adapter=adapter):
        assert (await predict(mode, question="?")).answer == "blue"
    assert traced.tree() == TWO_STEPS[mode]


FALLBACK = """\
invoke_workflow Predict question -> answer
└─ ChatAdapter
   ├─ ChatAdapter.format
   ├─ chat echo
   ├─ ChatAdapter.parse ERROR(AdapterParseError)
   └─ JSONAdapter
      ├─ JSONAdapter.format
      ├─ chat echo
      └─ JSONAdapter.parse"""


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_the_fallback_is_seen_with_its_reason(traced: Traced, mode: str) -> None:
    with dspy.context(lm=EchoLM(json_text(answer="blue")), adapter=dspy.ChatAdapter()):
        assert (await predict(mode, question="?")).answer == "blue"
    assert traced.tree() == FALLBACK
    root = traced.attributes("invoke_workflow Predict question -> answer")
    assert root["dspy.lm.call.count"] == 2


def with_super() -> type[dspy.Adapter]:
    class WithSuper(dspy.ChatAdapter):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            return await super().acall(*args, **kwargs)

        def format(self, *args: Any, **kwargs: Any) -> Any:
            return super().format(*args, **kwargs)

        def parse(self, *args: Any, **kwargs: Any) -> Any:
            return super().parse(*args, **kwargs)

    return WithSuper


def without_super() -> type[dspy.Adapter]:
    class WithoutSuper(dspy.Adapter):
        def __call__(self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any) -> Any:
            messages = self.format(signature, demos, inputs)
            return [self.parse(signature, text) for text in lm(messages=messages)]

        async def acall(
            self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any
        ) -> Any:
            messages = self.format(signature, demos, inputs)
            return [self.parse(signature, text) for text in await lm.acall(messages=messages)]

        def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
            return [{"role": "user", "content": str(inputs)}]

        def parse(self, signature: Any, completion: Any) -> Any:
            return {"answer": "blue"}

    return WithoutSuper


def inheriting() -> type[dspy.Adapter]:
    class Inheriting(with_super()):
        pass

    return Inheriting


def plain_acall() -> type[dspy.Adapter]:
    class PlainACall(dspy.ChatAdapter):
        def acall(self, *args: Any, **kwargs: Any) -> Any:
            return super().acall(*args, **kwargs)

    return PlainACall


def of_another_tree() -> type[dspy.Adapter]:
    class Mixin:
        def parse(self, signature: Any, completion: Any) -> Any:
            return {"answer": "blue"}

    class Mixed(Mixin, dspy.ChatAdapter):
        pass

    return Mixed


@pytest.mark.parametrize(
    "make", [with_super, without_super, inheriting, plain_acall, of_another_tree]
)
@pytest.mark.parametrize("defined", ["before", "after"])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_users_own(trace_with: TraceWith, make: Any, defined: str, mode: str) -> None:
    early = make() if defined == "before" else None
    traced = trace_with(adapter_steps="spans")
    kind = early or make()
    with dspy.context(lm=EchoLM(chat_text(answer="blue")), adapter=kind()):
        assert (await predict(mode, question="?")).answer == "blue"
    assert traced.tree() == TREE.format(kind.__name__)


def test_a_step_on_its_own(traced: Traced) -> None:
    adapter = dspy.ChatAdapter()
    adapter.format(dspy.Signature(QA), [], {"question": "?"})
    adapter.parse(signature=dspy.Signature(QA), completion=chat_text(answer="blue"))
    assert traced.tree() == "ChatAdapter.format\nChatAdapter.parse"
    assert set(traced.content("ChatAdapter.parse", "dspy.adapter.input")) == {"completion"}


def test_steps_can_be_turned_off(trace_with: TraceWith) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    with dspy.context(lm=answering(), adapter=with_super()()):
        dspy.Predict(QA)(question="?")
    assert traced.tree() == "invoke_workflow Predict question -> answer\n└─ chat dummy"


def test_what_an_adapter_changes_before_it_formats(traced: Traced) -> None:
    class Emphatic(dspy.ChatAdapter):
        def __call__(
            self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any
        ) -> list[Any]:
            inputs["question"] += "!"
            return super().__call__(lm, lm_kwargs, signature, demos, inputs)

    with dspy.context(lm=EchoLM(), adapter=Emphatic()):
        dspy.Predict("question -> answer")(question="why?")
    given = traced.content("Emphatic", "dspy.adapter.input")
    assert given == {"demos": [], "inputs": {"question": "why?"}}
    formatted = traced.content("Emphatic.format", "dspy.adapter.input")
    assert formatted == {"demos": [], "inputs": {"question": "why?!"}}


@pytest.mark.parametrize("question", ["why?", "long " * 2_000, "Straße", ["a", "list"], {"a": 1}])
def test_what_an_adapter_formats_is_what_it_was_given(traced: Traced, question: Any) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Predict("question -> answer")(question=question)
    given, formatted = traced.span("ChatAdapter"), traced.span("ChatAdapter.format")
    assert "dspy.truncated" not in formatted.attributes
    assert formatted.attributes["dspy.adapter.input"] == given.attributes["dspy.adapter.input"]


def test_a_redaction_hook_is_asked_for_each_step(trace_with: TraceWith) -> None:
    asked: list[tuple[str, str]] = []

    def redact(operation: str, field: str, value: Any) -> Any:
        asked.append((operation, field))
        return value

    traced = trace_with(redact=redact, adapter_steps="spans")
    with dspy.context(lm=EchoLM()):
        dspy.Predict("question -> answer")(question="why?")
    assert traced.names()
    assert {("adapter", "inputs"), ("adapter.format", "inputs")} <= set(asked)


class Unequal:
    """Like an array, which cannot be compared for being equal as a whole."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value is ambiguous")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ({"demos": [], "inputs": {"question": Unequal()}}, {"demos": [], "inputs": Unequal}),
        ({"demos": (), "inputs": {"question": "why?"}}, {"demos": [], "inputs": "why?"}),
        ({"inputs": {"question": "why?"}}, {"inputs": "why?"}),
    ],
)
def test_a_step_with_other_inputs_than_the_call(
    traced: Traced, given: dict[str, Any], recorded: dict[str, Any]
) -> None:
    class Changing(dspy.ChatAdapter):
        def format(self, signature: Any, demos: Any = (), inputs: Any = None) -> Any:
            return super().format(signature, list(demos), {"question": "why?"})

        def __call__(
            self, lm: Any, lm_kwargs: Any, signature: Any, demos: Any, inputs: Any
        ) -> list[Any]:
            self.format(signature=signature, **given)
            return [{"answer": "so"}]

    with dspy.context(lm=EchoLM(), adapter=Changing()):
        dspy.Predict("question -> answer")(question="why?")
    content = traced.content("Changing.format", "dspy.adapter.input")
    assert content.keys() == recorded.keys()
    question = content["inputs"]["question"]
    assert question == recorded["inputs"] or "Unequal" in question
