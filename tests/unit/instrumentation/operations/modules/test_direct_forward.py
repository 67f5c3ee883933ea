# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that call ``forward`` of a module instead of the module."""

from __future__ import annotations

import copy
import inspect
import logging
from typing import Any
from unittest import mock

import cloudpickle
import dspy
import pytest

from tests.support.lms import EchoLM
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("workflow")

HINT = "was called directly"


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> answer")
        self.second = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        self.first(question=question)
        return self.second(question=question)

    async def aforward(self, question: str) -> Any:
        await self.first.acall(question=question)
        return await self.second.acall(question=question)


class Outer(Inner):
    def forward(self, question: str) -> Any:
        return super().forward(question)


class Recursive(Inner):
    def forward(self, question: str, depth: int = 1) -> Any:
        return self(question=question, depth=depth - 1) if depth else super().forward(question)


class Delegating(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, question: str) -> Any:
        return self.inner.forward(question)


@pytest.fixture
def direct(trace_with: TraceWith) -> Traced:
    return trace_with(trace_direct_forward=True)


async def ask(program: Any, how: str) -> Any:
    with dspy.context(lm=EchoLM()):
        if how == "forward":
            return program.forward("?")
        if how == "aforward":
            return await program.aforward("?")
        return program(question="?") if how == "call" else await program.acall(question="?")


@pytest.mark.parametrize("how", ["forward", "aforward"])
async def test_without_the_setting_one_line_says_so(
    traced: Traced, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with caplog.at_level(logging.INFO, "opentelemetry.instrumentation.dspy"):
        for _ in range(2):
            await ask(Inner(), how)
    assert len({span.context.trace_id for span in traced.spans if span.context}) == 4
    (line,) = [record.getMessage() for record in caplog.records if HINT in record.getMessage()]
    assert line.startswith(f"Inner.{how}() ")
    assert "trace_direct_forward" in line


@pytest.mark.parametrize("how", ["call", "acall"])
async def test_no_line_about_a_module_that_is_called(
    traced: Traced, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    with caplog.at_level(logging.INFO, "opentelemetry.instrumentation.dspy"):
        await ask(Inner(), how)
    assert HINT not in caplog.text


@pytest.mark.parametrize("program", [Inner, Outer, Delegating])
@pytest.mark.parametrize("how", ["forward", "call"])
async def test_a_direct_forward_is_one_tree(direct: Traced, program: Any, how: str) -> None:
    await ask(program(), how)
    root = assert_one_tree(direct.spans)
    assert root.name == f"invoke_workflow {program.__name__}"
    assert sum(span.name.startswith("invoke_workflow") for span in direct.spans) == 1
    predictors = [span.name for span in direct.spans if span.name.startswith("Predict")]
    prefix = "inner." if program is Delegating else ""
    assert predictors == [f"Predict {prefix}first", f"Predict {prefix}second"]


@pytest.mark.parametrize("how", ["aforward", "acall"])
async def test_a_direct_aforward_is_one_tree(direct: Traced, how: str) -> None:
    await ask(Inner(), how)
    assert assert_one_tree(direct.spans).name == "invoke_workflow Inner"
    assert len([span for span in direct.spans if "Inner" in span.name]) == 1


async def test_both_ways_make_the_same_tree(direct: Traced) -> None:
    await ask(Inner(), "call")
    called = direct.tree("dspy.module.input")
    direct.clear()
    await ask(Inner(), "forward")
    assert direct.tree("dspy.module.input") == called


async def test_a_recursion_has_a_span_for_each_level(direct: Traced) -> None:
    await ask(Recursive(), "forward")
    assert_one_tree(direct.spans)
    assert len([span for span in direct.spans if "Recursive" in span.name]) == 2


async def test_a_predictor_of_dspy(direct: Traced) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Predict("question -> answer").forward(question="?")
    assert assert_one_tree(direct.spans).name == "invoke_workflow Predict question -> answer"


async def test_errors_pass(direct: Traced) -> None:
    class Failing(dspy.Module):
        def forward(self) -> Any:
            raise LookupError("no")

    with pytest.raises(LookupError):
        Failing().forward()
    assert direct.attributes("invoke_workflow Failing")["error.type"] == "LookupError"


def test_the_program_stays_as_it_is(direct: Traced) -> None:
    program = Inner()
    assert str(inspect.signature(program.forward)) == "(question: 'str') -> 'Any'"
    assert inspect.isfunction(Inner.forward)
    assert inspect.iscoroutinefunction(program.aforward)
    assert Inner.forward.__qualname__ == "Inner.forward"
    assert type(copy.deepcopy(program)) is type(program.deepcopy()) is Inner
    assert type(cloudpickle.loads(cloudpickle.dumps(program))).__name__ == "Inner"
    with mock.patch.object(Inner, "forward", return_value="mocked"):
        assert program(question="?") == program.forward("?") == "mocked"
    program.forward = lambda question: "own"
    assert program(question="?") == "own"
    uninstrument()
    assert "Traced" not in type(vars(Inner)["forward"]).__name__


def test_the_setting_of_the_environment(
    trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_DSPY_TRACE_DIRECT_FORWARD", "true")
    traced = trace_with()
    with dspy.context(lm=EchoLM()):
        Inner().forward("?")
    assert assert_one_tree(traced.spans).name == "invoke_workflow Inner"
