# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Agents that write code: their steps, and why they stop."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.primitives.python_interpreter import PythonInterpreter
from dspy.utils import DummyLM

from tests.support.agents import FINAL, MODES, QA, facts, run, search, steps
from tests.support.fake_sandbox import DENO_COMMAND
from tests.support.lms import DSPY, Version
from tests.support.traced import Traced

pytestmark = [pytest.mark.surface("ReAct"), pytest.mark.surface("RLM")]


def interpreter() -> PythonInterpreter:
    return PythonInterpreter(deno_command=DENO_COMMAND)


def code_options() -> dict[str, Any]:
    if Version("3.3") <= DSPY:
        return {"interpreter_factory": interpreter}
    return {"interpreter": interpreter()}


def program(code: str, finished: bool) -> dict[str, Any]:
    return {"generated_code": f"```python\n{code}\n```", "finished": str(finished)}


@pytest.mark.filterwarnings("ignore:CodeAct is deprecated:DeprecationWarning")
def test_code_act(traced: Traced) -> None:
    agent = dspy.CodeAct(QA, tools=[search], max_iters=4, **code_options())
    answers = [program("print(1)", False), program("print(2)", True), FINAL]
    with dspy.context(lm=DummyLM(answers)):
        assert agent(question="?").answer == "blue"
    assert facts(traced, "invoke_agent CodeAct") == {
        "step.count": 2,
        "max_steps": 4,
        "termination": "finish",
    }
    assert steps(traced, "Predict codeact") == [0, 1]


@pytest.mark.filterwarnings("ignore:CodeAct is deprecated:DeprecationWarning")
def test_code_act_with_no_steps_left(traced: Traced) -> None:
    agent = dspy.CodeAct(QA, tools=[search], max_iters=2, **code_options())
    answers = [program("print(1)", False)] * 2 + [FINAL]
    with dspy.context(lm=DummyLM(answers)):
        agent(question="?")
    assert facts(traced, "invoke_agent CodeAct")["termination"] == "max_iters"


@pytest.mark.filterwarnings("ignore:ProgramOfThought is deprecated:DeprecationWarning")
def test_program_of_thought(traced: Traced) -> None:
    agent = dspy.ProgramOfThought(QA, max_iters=3, **code_options())
    answers = [
        {"reasoning": "r", "generated_code": "```python\nraise ValueError('no')\n```"},
        {"reasoning": "r", "generated_code": "```python\nprint(2)\n```"},
        FINAL,
    ]
    with dspy.context(lm=DummyLM(answers)):
        agent(question="?")
    assert facts(traced, "invoke_agent ProgramOfThought") == {
        "step.count": 2,
        "max_steps": 3,
        "termination": "finish",
    }
    assert steps(traced, "ChainOfThought code_generate") == [0]
    assert steps(traced, "ChainOfThought code_regenerate") == [1]


@pytest.mark.filterwarnings("ignore:ProgramOfThought is deprecated:DeprecationWarning")
def test_program_of_thought_that_gives_up(traced: Traced) -> None:
    agent = dspy.ProgramOfThought(QA, max_iters=2, **code_options())
    wrong = {"reasoning": "r", "generated_code": "```python\nraise ValueError('no')\n```"}
    with dspy.context(lm=DummyLM([wrong, wrong])), pytest.raises(RuntimeError, match="Max hops"):
        agent(question="?")
    assert facts(traced, "invoke_agent ProgramOfThought") == {
        "step.count": 2,
        "max_steps": 2,
        "termination": "max_iters",
    }


needs_rlm = pytest.mark.skipif(Version("3.1.3") > DSPY, reason="no RLM in this dspy")


def rlm(steps: int) -> Any:
    limit = "max_iters" if Version("3.3") <= DSPY else "max_iterations"
    return dspy.RLM("query -> answer", **{limit: steps}, **code_options())


@needs_rlm
@MODES
async def test_rlm(traced: Traced, mode: str) -> None:
    answers = [
        {"reasoning": "r", "code": "```python\nprint(1)\n```"},
        {"reasoning": "r", "code": "```python\nSUBMIT(answer='blue')\n```"},
    ]
    result = await run(rlm(4), mode, DummyLM(answers), query="?")
    assert result.answer == "blue"
    assert facts(traced, "invoke_agent RLM") == {
        "step.count": 2,
        "max_steps": 4,
        "termination": "finish",
    }
    assert steps(traced, "Predict generate_action") == [0, 1]
    assert [index for index in steps(traced, "run_code PythonInterpreter") if index] == [1]


@needs_rlm
@MODES
async def test_rlm_with_no_steps_left(traced: Traced, mode: str) -> None:
    answers = [{"reasoning": "r", "code": "```python\nprint(1)\n```"}, {"answer": "blue"}]
    result = await run(rlm(1), mode, DummyLM(answers), query="?")
    assert result.answer == "blue"
    assert facts(traced, "invoke_agent RLM") == {
        "step.count": 1,
        "max_steps": 1,
        "termination": "max_iters",
    }
