# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``dspy.program.hash``: the same for the same program, another one for every change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import dspy
import pytest

from tests.support.prompt_lm import PromptLM
from tests.support.traced import Traced

QA = "question -> answer"


class Program(dspy.Module):
    """Predictors as attributes, in a list, in a dict, and inside of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict(QA)
        self.more = [dspy.Predict(QA), dspy.ChainOfThought(QA)]
        self.named = {"judge": dspy.Predict("answer -> verdict")}

    def forward(self, question: str) -> Any:
        return self.first(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.first.acall(question=question)


def hash_of(traced: Traced, program: dspy.Module) -> str:
    traced.clear()
    with dspy.context(lm=PromptLM()):
        program(question="?")
    roots = [span for span in traced.spans if span.parent is None]
    return str((roots[0].attributes or {})["dspy.program.hash"])


def demo(answer: str) -> dspy.Example:
    return dspy.Example(question="q", answer=answer).with_inputs("question")


async def test_the_hash_stands_on_the_outermost_module_only(traced: Traced) -> None:
    with dspy.context(lm=PromptLM()):
        Program()(question="?")
        await Program().acall(question="?")
    hashed = [span for span in traced.spans if "dspy.program.hash" in (span.attributes or {})]
    assert [span.name for span in hashed] == ["invoke_workflow Program"] * 2
    values = {(span.attributes or {})["dspy.program.hash"] for span in hashed}
    assert len(values) == 1
    assert len(str(values.pop())) == 12


def test_the_hash_of_an_unchanged_program_and_of_its_copies(traced: Traced) -> None:
    program = Program()
    known = hash_of(traced, program)
    assert hash_of(traced, program) == known
    assert hash_of(traced, program.deepcopy()) == known
    assert hash_of(traced, copy.deepcopy(program)) == known
    assert hash_of(traced, Program()) == known


def test_what_dspy_notes_about_earlier_calls_is_no_part_of_the_program(traced: Traced) -> None:
    """The hash would cost more with each call, and change."""
    program = Program()
    before = hash_of(traced, program)
    assert program.history
    program.history.append({"module": dspy.Predict("noted -> only")})
    assert hash_of(traced, program) == before


def _add_demo(program: Program) -> None:
    program.first.demos = [demo("a")]


def _add_demo_in_place(program: Program) -> None:
    program.more[0].demos.append(demo("a"))


def _add_instructions(program: Program) -> None:
    predict = program.named["judge"]
    predict.signature = predict.signature.with_instructions("Be strict.")


def _change_instructions_in_place(program: Program) -> None:
    program.first.signature = dspy.Signature(QA, "One.")
    hash_before = program.first.signature
    hash_before.instructions = "Two."


def _set_option(program: Program) -> None:
    program.first.config["temperature"] = 0.7


def _replace_predictor(program: Program) -> None:
    program.first = dspy.ChainOfThought(QA)


@pytest.mark.parametrize(
    "change",
    [
        _add_demo,
        _add_demo_in_place,
        _add_instructions,
        _change_instructions_in_place,
        _set_option,
        _replace_predictor,
    ],
)
def test_a_change_makes_another_hash(traced: Traced, change: Any) -> None:
    program = Program()
    before = hash_of(traced, program)
    change(program)
    after = hash_of(traced, program)
    assert after != before
    assert hash_of(traced, program) == after


def test_demos_that_come_and_go_at_one_address(traced: Traced) -> None:
    program, seen = Program(), set[str]()
    for number in range(20):
        # The list, and what is in it, is often made where the one before was.
        program.first.demos = [demo(f"answer {number}")]
        seen.add(hash_of(traced, program))
    assert len(seen) == 20


def test_compiling_changes_the_hash(traced: Traced) -> None:
    student = Program()
    with dspy.context(lm=PromptLM()):
        compiled = dspy.LabeledFewShot(k=1).compile(student, trainset=[demo("a"), demo("b")])
    assert hash_of(traced, compiled) != hash_of(traced, student)


def test_a_loaded_program_has_the_hash_of_the_saved_one(traced: Traced, tmp_path: Path) -> None:
    saved, file = Program(), tmp_path / "program.json"
    saved.first.demos = [demo("a"), demo("b")]
    saved.first.signature = saved.first.signature.with_instructions("Answer briefly.")
    known = hash_of(traced, saved)
    saved.save(str(file))
    loaded = Program()
    assert hash_of(traced, loaded) != known
    loaded.load(str(file))
    assert hash_of(traced, loaded) == known


def test_a_program_without_predictors_has_no_hash(traced: Traced) -> None:
    class Plain(dspy.Module):
        def forward(self) -> str:
            return "done"

    Plain()()
    assert "dspy.program.hash" not in traced.attributes("invoke_workflow Plain")


def test_a_program_that_holds_itself(traced: Traced) -> None:
    program = Program()
    loop: list[Any] = [program]
    loop.append(loop)
    program.loop = loop
    assert len(hash_of(traced, program)) == 12


def test_no_option_is_told_by_the_hash(traced: Traced) -> None:
    one, other = dspy.Predict(QA, api_key="sk-one-one-one"), dspy.Predict(QA, api_key="sk-two-two")
    assert hash_of(traced, one) == hash_of(traced, other)


class Compared(dspy.Predict):
    """A predictor with an equality of its own, which no hash goes with."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("no other code compares them")


def test_a_predictor_that_cannot_be_hashed(traced: Traced) -> None:
    compared, plain = Compared(QA), dspy.Predict(QA)
    assert hash_of(traced, compared) == hash_of(traced, plain)
    compared.demos = plain.demos = [demo("blue")]
    assert hash_of(traced, compared) == hash_of(traced, plain)
