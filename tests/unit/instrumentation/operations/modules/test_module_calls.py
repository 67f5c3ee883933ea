# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What is recorded of a module call: arguments however they are passed, results, facts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import dspy
import pytest

from tests.support.lms import DummyLM, answering
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("Predict")

QA = "question -> answer"


def both(method: Any) -> Any:
    """``forward`` and an ``aforward`` that does the same."""

    async def aforward(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    aforward.__wrapped__ = method  # type: ignore[attr-defined]
    return {"forward": method, "aforward": aforward}


def returned(*values: Any, **named: Any) -> Any:
    return [*values, *named.values()]


def plain(self: Any, question: Any, k: Any = None) -> Any:
    return returned(question) if k is None else returned(question, k)


def renamed(this: Any, question: Any) -> Any:
    return returned(question)


def named_like_ours(me: Any, self: Any, args: Any, kwargs: Any, original: Any, call: Any) -> Any:
    return returned(self, args, kwargs, original, call)


def positional_only(self: Any, question: Any, /) -> Any:
    return returned(question)


def keyword_only(self: Any, *, question: Any) -> Any:
    return returned(question)


def star_args(self: Any, first: Any, *rest: Any) -> Any:
    return returned(first, *rest)


def only_star_args(*everything: Any) -> Any:
    return returned(*everything[1:])


def star_kwargs(self: Any, **fields: Any) -> Any:
    return returned(**fields)


CALLS = [
    (plain, ("a",), {}, {"question": "a"}),
    (plain, ("a", 4), {}, {"question": "a", "k": 4}),
    (plain, ("a",), {"k": 4}, {"question": "a", "k": 4}),
    (plain, (), {"question": "a", "k": 4}, {"question": "a", "k": 4}),
    (renamed, ("a",), {}, {"question": "a"}),
    (
        named_like_ours,
        (1, 2),
        {"kwargs": 3, "original": 4, "call": 5},
        {"self": 1, "args": 2, "kwargs": 3, "original": 4, "call": 5},
    ),
    (positional_only, ("a",), {}, {"question": "a"}),
    (keyword_only, (), {"question": "a"}, {"question": "a"}),
    (star_args, ("a", "b", "c"), {}, {"first": "a", "args": ["b", "c"]}),
    (only_star_args, ("a", "b"), {}, {"args": ["a", "b"]}),
    (star_kwargs, (), {"question": "a", "this": 1}, {"question": "a", "this": 1}),
]
IDS = [f"{call[0].__name__}-{number}" for number, call in enumerate(CALLS)]


@pytest.mark.parametrize(("forward", "args", "kwargs", "recorded"), CALLS, ids=IDS)
def test_arguments(
    traced: Traced, forward: Any, args: Any, kwargs: Any, recorded: dict[str, Any]
) -> None:
    program = type("Program", (dspy.Module,), both(forward))()
    assert program(*args, **kwargs) == [*args, *kwargs.values()]
    assert traced.content("invoke_workflow Program", "dspy.module.input") == recorded


@pytest.mark.parametrize(("forward", "args", "kwargs", "recorded"), CALLS, ids=IDS)
async def test_arguments_of_asynchronous_calls(
    traced: Traced, forward: Any, args: Any, kwargs: Any, recorded: dict[str, Any]
) -> None:
    program = type("Program", (dspy.Module,), both(forward))()
    assert await program.acall(*args, **kwargs) == [*args, *kwargs.values()]
    assert traced.content("invoke_workflow Program", "dspy.module.input") == recorded


@pytest.mark.parametrize("name", ["self_", "call", "context", "operation", "span", "item"])
def test_fields_may_have_any_name(traced: Traced, name: str) -> None:
    with dspy.context(lm=answering()):
        assert dspy.Predict(f"{name} -> answer")(**{name: "x"}).answer == "blue"
    assert traced.content("invoke_workflow Predict", "dspy.module.input") == {name: "x"}


def test_a_call_that_python_rejects_is_rejected_alike(traced: Traced) -> None:
    program = type("Program", (dspy.Module,), {"forward": keyword_only})()
    with pytest.raises(TypeError, match="positional argument"):
        program("a")
    assert traced.tree() == "invoke_workflow Program ERROR(TypeError)"


def test_a_class_that_inherits_everything(traced: Traced) -> None:
    class First(dspy.Module):
        def forward(self, question: str) -> str:
            return question

    class Second(First):
        pass

    class Third(Second):
        pass

    assert Third()("?") == "?"
    assert traced.content("invoke_workflow Third", "dspy.module.input") == {"question": "?"}


@pytest.mark.parametrize(
    ("result", "recorded"),
    [
        (dspy.Prediction(answer="x", score=0.5), {"answer": "x", "score": 0.5}),
        ("text", "text"),
        (None, None),
        ((dspy.Prediction(answer="x"), [1]), [{"answer": "x"}, [1]]),
    ],
    ids=["prediction", "text", "none", "tuple"],
)
def test_results(traced: Traced, result: Any, recorded: Any) -> None:
    class Program(dspy.Module):
        def forward(self) -> Any:
            return result

    assert Program()() is result
    assert traced.content("invoke_workflow Program", "dspy.module.output") == recorded


def test_a_generator_is_handed_on_untouched(traced: Traced) -> None:
    class Program(dspy.Module):
        def forward(self) -> Iterator[int]:
            yield from range(3)

    assert list(Program()()) == [0, 1, 2]
    assert "generator" in traced.content("invoke_workflow Program", "dspy.module.output")


def test_inputs_are_those_of_the_beginning(traced: Traced) -> None:
    class Program(dspy.Module):
        def forward(self, items: list[str]) -> list[str]:
            items.append("later")
            return items

    given = ["first"]
    assert Program()(given) == ["first", "later"]
    assert traced.content("invoke_workflow Program", "dspy.module.input") == {"items": ["first"]}


def test_facts_of_a_signature(traced: Traced) -> None:
    class Summarize(dspy.Signature):
        """Make it short."""

        text: str = dspy.InputField()
        answer: str = dspy.OutputField(desc="one sentence")

    predict = dspy.Predict(Summarize)
    predict.demos = [dspy.Example(text="long", answer="short").with_inputs("text")]
    with dspy.context(lm=answering()):
        predict(text="?")
    attributes = traced.attributes("invoke_workflow Predict")
    fingerprint = attributes.pop("dspy.signature.fingerprint")
    assert len(fingerprint) == 12
    assert json.loads(attributes.pop("dspy.signature.fields")) == [
        {"name": "text", "role": "input", "type": "str", "required": True},
        {
            "name": "answer",
            "role": "output",
            "type": "str",
            "required": True,
            "description": "one sentence",
        },
    ]
    assert len(attributes.pop("dspy.program.hash")) == 12
    assert attributes.pop("dspy.signature.qualified_name").endswith(".<locals>.Summarize")
    assert attributes.pop("dspy.module.cpu_time") > 0
    attributes.pop("dspy.module.memory_growth", None)  # on Linux
    facts = {name: value for name, value in attributes.items() if name[-3:] != "put"}
    assert facts == {
        "dspy.operation": "predict",
        "dspy.module.type": "Predict",
        "dspy.module.signature": "text -> answer",
        "dspy.module.demo.count": 1,
        "dspy.lm.call.count": 1,
        "dspy.prediction.completion.count": 1,
        "dspy.signature.name": "Summarize",
        "dspy.signature.instructions": "Make it short.",
        "dspy.signature.input_fields": ("text",),
        "dspy.signature.output_fields": ("answer",),
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "Predict Summarize",
    }


def fingerprint_of(traced: Traced, predict: dspy.Predict) -> str:
    traced.clear()
    with dspy.context(lm=answering()):
        predict(question="?")
    return traced.attributes("invoke_workflow Predict")["dspy.signature.fingerprint"]


def test_the_fingerprint_follows_the_instructions_not_the_name(traced: Traced) -> None:
    predict = dspy.Predict(QA)
    before = fingerprint_of(traced, predict)
    assert fingerprint_of(traced, dspy.Predict(QA)) == before
    predict.signature = predict.signature.with_instructions("Think harder.")
    changed = fingerprint_of(traced, predict)
    assert changed != before
    # The setter changes the class in place, so nothing but the text tells that it is another.
    predict.signature.instructions = "Think even harder."
    assert fingerprint_of(traced, predict) not in {before, changed}


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize(
    "odd",
    [dspy.InputField(default=Unprintable()), dspy.InputField(desc="half an emoji: \ud83d")],
    ids=["default without repr", "lone surrogate"],
)
def test_a_signature_that_cannot_be_described_costs_no_span(traced: Traced, odd: Any) -> None:
    class Odd(dspy.Signature):
        """Answer."""

        hint: Any = odd
        answer: str = dspy.OutputField()

    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.signature = Odd

        def forward(self, hint: str) -> str:
            return hint

    assert Program()("h") == "h"
    assert traced.names() == ["invoke_workflow Program"]


@pytest.mark.parametrize("depth", [1, 2])
def test_lm_calls_are_counted_in_every_module_above(trace_with: TraceWith, depth: int) -> None:
    class Program(dspy.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.think = dspy.ChainOfThought(QA)
            self.below = Program(depth - 1) if depth else None

        def forward(self, question: str) -> None:
            self.think(question=question)
            if self.below:
                self.below(question=question)

    traced = trace_with(capture_intermediate_steps=False)
    with dspy.context(lm=DummyLM([{"reasoning": "r", "answer": "a"}] * 9)):
        Program(depth)("?")
    counts = [
        (span.attributes or {}).get("dspy.lm.call.count")
        for span in traced.spans
        if "Program" in span.name
    ]
    assert counts == list(range(1, depth + 2))


def test_a_compiled_program_says_so(traced: Traced) -> None:
    program = dspy.Predict(QA)
    program._compiled = True
    with dspy.context(lm=answering()):
        program(question="?")
    assert traced.attributes("invoke_workflow Predict")["dspy.module.compiled"] is True
