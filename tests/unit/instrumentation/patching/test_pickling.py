# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs are copied, pickled, saved and loaded as if they were not traced."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest

from tests.support.lms import DSPY, DummyLM, EchoLM, Version, answering
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith


class Basic(dspy.Signature):
    """Unlike one made from a string, a class that pickle finds."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Inner(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict(Basic)

    def forward(self, question: str) -> Any:
        return self.generate(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.generate.acall(question=question)


class Program(dspy.Module):
    """Holds what is awkward to copy: a tool that is a bound method of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.tool = dspy.Tool(self.inner.acall, name="ask")
        self.call = self.inner.__call__

    def forward(self, question: str) -> Any:
        return self.call(question=question)


class OverridingLM(EchoLM):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class OverridingAdapter(dspy.ChatAdapter):
    def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
        return super().format(signature, demos, inputs)


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "cloudpickle": lambda thing: cloudpickle.loads(cloudpickle.dumps(thing)),
}


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
def test_programs(traced: Traced, how: Any) -> None:
    program = how(Program())
    with dspy.context(lm=answering()):
        assert program(question="?").answer == "blue"
    assert traced.names().count("invoke_workflow Program") == 1


@pytest.mark.parametrize("how", [copy.deepcopy, COPIES["cloudpickle"], dspy.Module.deepcopy])
def test_a_tool_goes_along_with_the_module_it_is_a_method_of(traced: Traced, how: Any) -> None:
    original = Program()
    program = how(original)
    function = program.tool.func
    assert function.__self__ is program.inner
    assert function.__self__ is not original.inner
    assert inspect.iscoroutinefunction(function)


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("make", [OverridingLM, OverridingAdapter, dspy.ChatAdapter])
def test_lms_and_adapters(traced: Traced, how: Any, make: Any) -> None:
    thing = how(make())
    assert type(thing) is make
    lm = thing if isinstance(thing, EchoLM) else EchoLM()
    adapter = thing if isinstance(thing, dspy.Adapter) else dspy.ChatAdapter()
    with dspy.context(lm=lm, adapter=adapter):
        assert dspy.Predict(Basic)(question="?").answer == "blue"
    assert len(traced.spans) == 3


@pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Inner, "__call__"),
        (Inner, "acall"),
        (EchoLM, "__call__"),
        (OverridingLM, "__call__"),
        (OverridingAdapter, "format"),
        (dspy.ChatAdapter, "parse"),
    ],
)
def test_methods_that_a_program_holds(traced: Traced, how: Any, make: Any, name: str) -> None:
    method = how(getattr(make(), name))
    assert type(method.__self__) is make
    assert method.__name__ == name


@pytest.mark.skipif(
    Version("3.3.1") > DSPY,
    reason="dspy < 3.3.1: adapters could not be pickled by value, traced or not",
)
def test_classes_are_pickled_as_themselves(traced: Traced) -> None:
    class Local(OverridingAdapter):
        def parse(self, signature: Any, completion: Any) -> Any:
            return {"answer": "local"}

    restored = cloudpickle.loads(cloudpickle.dumps(Local))
    with dspy.context(lm=EchoLM(), adapter=restored()):
        assert dspy.Predict(Basic)(question="?").answer == "local"


def test_an_lm_copies_itself(traced: Traced) -> None:
    copied = OverridingLM().copy(temperature=0.5)
    copied("hello")
    assert traced.attributes("chat echo")["gen_ai.request.temperature"] == 0.5


def test_state_is_saved_and_loaded(traced: Traced, tmp_path: Path) -> None:
    program = Program()
    program.inner.generate.demos = [dspy.Example(question="a", answer="b").with_inputs("question")]
    program.save(str(tmp_path / "state.json"))
    loaded = Program()
    loaded.load(str(tmp_path / "state.json"))
    assert loaded.inner.generate.demos[0]["answer"] == "b"
    with dspy.context(lm=answering()):
        loaded(question="?")
    assert traced.attributes("Predict inner.generate")["dspy.module.demo.count"] == 1


@pytest.mark.parametrize("saved", ["before", "while traced"])
def test_a_whole_program_is_saved_and_loaded(
    trace_with: TraceWith, tmp_path: Path, saved: str
) -> None:
    if saved == "before":
        Program().save(str(tmp_path / "program"), save_program=True)
        traced = trace_with()
    else:
        traced = trace_with()
        Program().save(str(tmp_path / "program"), save_program=True)
    accepts = inspect.signature(dspy.load).parameters
    options = {"allow_pickle": True} if "allow_pickle" in accepts else {}
    program = dspy.load(str(tmp_path / "program"), **options)
    with dspy.context(lm=answering()):
        assert program(question="?").answer == "blue"
    assert "invoke_workflow Program" in traced.names()


def test_a_file_saved_while_traced_loads_without_us(trace_with: TraceWith, tmp_path: Path) -> None:
    trace_with()
    Program().save(str(tmp_path / "program"), save_program=True)
    (saved,) = (tmp_path / "program").glob("*.pkl")
    assert b"opentelemetry" not in saved.read_bytes()


def test_compiling_copies_programs(traced: Traced) -> None:
    examples = [dspy.Example(question=f"q{n}", answer="blue").with_inputs("question") for n in "ab"]
    optimizer = dspy.BootstrapFewShot(metric=lambda *_: True, max_labeled_demos=0)
    with dspy.context(lm=DummyLM([{"answer": "blue"}] * 9)):
        compiled = optimizer.compile(Inner(), trainset=examples)
    assert len(compiled.generate.demos) == 2
