# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Classes and objects of a program that is run again and again do not outlive their run.

A notebook, Streamlit or a reloader executes the same text in a new namespace each time. One object
that is kept alive keeps the whole namespace, and with it the data of the program.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import types
import warnings
import weakref
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy import DSPyCall
from tests.support.lms import EchoLM
from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TraceWith

RUNS = 20

PROGRAM = '''
import dataclasses
import enum

import dspy
import pydantic

from tests.support.lms import EchoLM

class Mood(enum.Enum):
    GOOD = "good"

class Place(pydantic.BaseModel):
    name: str = "here"

class Ask(dspy.Signature):
    """Answer."""
    question: str = dspy.InputField()
    place: Place = dspy.InputField(default=Place())
    mood: Mood = dspy.InputField(default=Mood.GOOD)
    answer: str = dspy.OutputField()

class OwnLM(EchoLM):
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)

class OwnAdapter(dspy.ChatAdapter):
    def parse(self, signature, completion):
        return {"answer": "blue"}

class Again:
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)

class Records(dict): ...

def search(query: str) -> str:
    return query

class Retriever(dspy.Retrieve):
    def forward(self, query):
        return dspy.Prediction(passages=[query])

class Embedder(dspy.Embedder):
    def __call__(self, inputs, **kwargs):
        return super().__call__(inputs, **kwargs)

class Optimizer(dspy.teleprompt.Teleprompter):
    def compile(self, student, *, trainset, **kwargs):
        return student

def embed(texts):
    return [[0.0] for text in texts]

class Program(Again, dspy.Module):
    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict(Ask)
        self.ask.demos = [dspy.Example(question="?", place=Place(), answer="blue")]
        self.ask.config = {"response_format": Place, "extra": [search]}
        self.tool = dspy.Tool(search)
        self.retriever = Retriever()
        self.notes = self.pending = None

    def forward(self, question):
        self.tool(query=question)
        self.retriever(question)
        self.notes = self.note(question=question)
        return self.ask(question=question, place=Place())

    async def aforward(self, question):
        return await self.ask.acall(question=question, place=Place())

    note = None

class Notes(dspy.Module):
    """A module that keeps the generator that it returns."""

    def forward(self, question):
        self.steps = (step for step in [self, question])
        return self.steps

class Later(dspy.Module):
    """A module that keeps a coroutine that is never awaited."""

    def acall(self, question):
        return self._answer(question)

    async def _answer(self, question):
        return question

Program.note = Notes()
lm, program, notes = OwnLM(), Program(), Notes()
later = Later()
mock_module = dspy.BestOfN(module=dspy.Predict(Ask), N=1, reward_fn=lambda a, p: 1.0, threshold=1.0)

def metric(example, prediction, trace=None):
    return 1.0

def run():
    with dspy.context(lm=lm, adapter=OwnAdapter()):
        program(question="?")
        mock_module(question="?", place=Place())
        notes(question="?")
        later.pending = later.acall(question="?")
        Embedder(embed, caching=False)(["a"])
        Optimizer().compile(program, trainset=[])
        example = dspy.Example(question="?", place=Place(), answer="blue")
        example = example.with_inputs("question", "place")
        dspy.Evaluate(devset=[example], metric=metric)(program.ask)
        lm([Records(role="user", content="?")])

async def arun():
    with dspy.context(lm=lm, adapter=OwnAdapter()):
        await program.acall(question="?")
'''


def tracked(namespace: dict[str, Any]) -> list[weakref.ref[Any]]:
    """References to what the module has defined: classes, functions and objects of DSPy."""
    found: list[Any] = []
    for value in namespace.values():
        is_own = getattr(value, "__module__", None) == namespace["__name__"]
        if is_own and isinstance(value, (type, types.FunctionType, dspy.Module, dspy.BaseLM)):
            found.append(value)
    return [weakref.ref(value) for value in found]


def run_once(number: int) -> list[weakref.ref[Any]]:
    """Execute the program in a module of its own; returns references to what is in it."""
    module: Any = types.ModuleType(f"run_{number}")
    sys.modules[module.__name__] = module
    try:
        exec(compile(PROGRAM, f"run_{number}.py", "exec"), vars(module))
        module.run()
        asyncio.run(module.arun())
        return [weakref.ref(module), *tracked(vars(module))]
    finally:
        del sys.modules[module.__name__]


def runs() -> list[weakref.ref[Any]]:
    # DSPy keeps what it traces in its own settings.
    with dspy.context(trace=[], disable_history=True):
        return [reference for number in range(RUNS) for reference in run_once(number)]


def alive(references: list[weakref.ref[Any]]) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine is never awaited
        gc.collect()
    found = [reference() for reference in references]
    return {str(getattr(value, "__name__", type(value))) for value in found if value is not None}


def test_nothing_of_a_run_is_alive_without_the_instrumentation() -> None:
    assert alive(runs()) == set()


@pytest.mark.parametrize("content", [True, False, "SPAN_AND_EVENT"])
def test_nothing_of_a_run_is_alive_while_traced(trace_with: TraceWith, content: Any) -> None:
    traced = trace_with(capture_content=content)
    assert alive(runs()) == set()
    assert len(traced.spans) > RUNS


def test_nothing_of_a_run_is_alive_after_uninstrument(traced: Traced) -> None:
    references = runs()
    uninstrument()
    assert alive(references) == set()


HOOKS = """
class HookError(Exception): ...

def request_hook(span, call):
    raise HookError

def response_hook(span, call, result):
    raise HookError

def redact(operation, field, value):
    return value
"""


def test_the_hooks_are_not_alive_after_uninstrument(
    trace_with: TraceWith, telemetry_log: Any
) -> None:
    module: Any = types.ModuleType("hooks")
    exec(HOOKS, vars(module))
    names = ("request_hook", "response_hook", "redact")
    trace_with(**{name: getattr(module, name) for name in names})
    EchoLM()("hello")
    telemetry_log.take()  # of the errors, once per kind
    uninstrument()
    references = [weakref.ref(module), *tracked({**vars(module), "__name__": "hooks"})]
    module.__dict__.clear()
    del module
    assert alive(references) == set()


def test_a_span_ends_whose_coroutine_is_part_of_a_cycle(traced: Traced) -> None:
    class Later(dspy.Module):
        def acall(self, question: str) -> Any:  # type: ignore[override]
            return self._answer(question)

        async def _answer(self, question: str) -> str:
            return question

    module: Any = Later()
    module.pending = module.acall("a")
    del module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it is never awaited
        gc.collect()
    assert traced.names() == ["invoke_workflow Later"]


def test_a_call_that_has_ended_has_its_instance_as_long_as_that_exists(
    trace_with: TraceWith,
) -> None:
    calls: list[DSPyCall] = []
    trace_with(request_hook=lambda span, call: calls.append(call))
    lm = EchoLM()
    lm("hello")
    assert calls[0].instance is lm
    del lm
    gc.collect()
    assert calls[0].instance is None
