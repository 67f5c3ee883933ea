# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A program cannot tell by its results, signatures, callbacks or warnings that it is traced."""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from typing import Any

import dspy
import pydantic
import pytest
from dspy.clients.base_lm import BaseLM
from dspy.utils.callback import BaseCallback
from opentelemetry import trace

from tests.support.fake_openai import FakeOpenAI
from tests.support.lms import DSPY, EchoLM, Version, served
from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TraceWith

QA = "question -> answer"


def lookup(query: str) -> str:
    return f"found {query}"


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought(QA)
        self.agent = dspy.ReAct(QA, tools=[lookup])

    def forward(self, question: str) -> Any:
        thought = self.think(question=question)
        return self.agent(question=thought.answer)


def results(server: FakeOpenAI) -> Any:
    server.reset()
    with dspy.context(lm=served(server)):
        result = Program()(question="?")
        many = dspy.Parallel(num_threads=2, disable_progress_bar=True)(
            [(dspy.Predict(QA), {"question": f"q{number}"}) for number in range(4)]
        )
    bodies = [request.json for request in server.requests]
    bodies.sort(key=str)
    return result.toDict(), [item.toDict() for item in many], bodies


def test_results_and_requests_are_equal(trace_with: TraceWith, server: FakeOpenAI) -> None:
    without = results(server)
    traced = trace_with()
    assert results(server) == without
    assert traced.spans


METHODS = [
    (dspy.Module, "__call__"),
    (dspy.Module, "acall"),
    (dspy.Predict, "__call__"),
    (BaseLM, "__call__"),
    (BaseLM, "acall"),
    (dspy.LM, "forward"),
    (dspy.Adapter, "__call__"),
    (dspy.Adapter, "acall"),
    (dspy.ChatAdapter, "format"),
    (dspy.ChatAdapter, "parse"),
    (dspy.JSONAdapter, "__call__"),
    (dspy.Tool, "__call__"),
    (dspy.Tool, "acall"),
    (dspy.utils.parallelizer.ParallelExecutor, "execute"),
]


def faces() -> dict[str, Any]:
    """How each method appears to ``inspect``."""
    found: dict[str, Any] = {}
    for owner, name in METHODS:
        method = getattr(owner, name)
        found[f"{owner.__name__}.{name}"] = (
            str(inspect.signature(method)),
            inspect.iscoroutinefunction(method),
            inspect.isfunction(method),
            method.__name__,
            method.__qualname__,
            method.__module__,
            method.__doc__,
            dict(method.__annotations__),
            inspect.getsource(method),
        )
    return found


def test_methods_look_the_same(trace_with: TraceWith) -> None:
    before = faces()
    trace_with()
    assert faces() == before


def test_bound_methods_look_the_same(trace_with: TraceWith) -> None:
    def bound() -> list[Any]:
        instances = [(Program(), "acall"), (EchoLM(), "acall"), (dspy.ChatAdapter(), "format")]
        methods = [getattr(instance, name) for instance, name in instances]
        methods.append(dspy.Tool(lookup).acall)
        return [
            (
                inspect.ismethod(method),
                inspect.iscoroutinefunction(method),
                str(inspect.signature(method)),
                method.__name__,
                method.__self__.__class__,
            )
            for method in methods
        ]

    before = bound()
    trace_with()
    assert bound() == before


def test_the_identities_that_dspy_asks_for(traced: Traced, server: FakeOpenAI) -> None:
    lm = served(server)
    assert type(lm).forward is dspy.LM.forward
    assert type(lm).aforward is dspy.LM.aforward
    assert lm("hello") == ["some text"]


class WritesDown(BaseCallback):
    """Every callback of DSPy that there is, as (name, what it was given)."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def write_down(*args: Any, **kwargs: Any) -> None:
            kwargs.pop("call_id", None)
            self.events.append((name, sorted(kwargs), repr(kwargs.get("inputs"))))

        return write_down


def events(server: FakeOpenAI) -> Any:
    callback = WritesDown()
    with dspy.context(lm=served(server), callbacks=[callback]):
        Program()(question="?")
    return callback.events


def test_user_callbacks_see_the_same_before_during_and_after(
    trace_with: TraceWith, server: FakeOpenAI
) -> None:
    before = events(server)
    traced = trace_with()
    during = events(server)
    assert traced.spans
    uninstrument()
    after = events(server)
    assert [event[0] for event in before].count("on_lm_start") == 3
    assert during == before
    assert after == before


def test_user_callbacks_run_inside_of_our_spans(traced: Traced, server: FakeOpenAI) -> None:
    class Marks(BaseCallback):
        def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            trace.get_current_span().set_attribute("error.type", "marked")

    with dspy.context(callbacks=[Marks()]):
        served(server)("hello")
    assert traced.attributes("chat gpt-4o-mini")["error.type"] == "marked"


def settings_state() -> Any:
    module = sys.modules["dspy.dsp.utils.settings"]
    return (
        dict(module.main_thread_config),
        dict(module.thread_local_overrides.get()),
        module.config_owner_thread_id,
        dict(dspy.settings.config),
    )


def test_settings_are_never_written(trace_with: TraceWith, server: FakeOpenAI) -> None:
    before = settings_state()
    trace_with()
    assert settings_state() == before
    with dspy.context(lm=served(server)):
        during = settings_state()
        dspy.Predict(QA)(question="?")
        assert settings_state() == during
    assert settings_state() == before


def recorded_warnings() -> list[Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        EchoLM()("hello")
        EchoLM()(messages=[{"role": "user", "content": "hello"}])
        with dspy.context(lm=EchoLM()):
            dspy.Predict(QA)(question="?")
            dspy.Parallel(num_threads=1, disable_progress_bar=True)(
                [(dspy.Predict(QA), {"question": "?"})]
            )
    return [(w.category.__name__, w.filename, w.lineno, str(w.message)[:40]) for w in caught]


async def recorded_async_warnings() -> list[Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await EchoLM().acall("hello")
        with dspy.context(lm=EchoLM()):
            await dspy.Predict(QA).acall(question="?")
    return [(w.category.__name__, w.filename, w.lineno, str(w.message)[:40]) for w in caught]


async def test_warnings_name_the_same_place(trace_with: TraceWith) -> None:
    before = recorded_warnings(), await recorded_async_warnings()
    trace_with()
    assert (recorded_warnings(), await recorded_async_warnings()) == before
    if Version("3.4") <= DSPY:
        assert {entry[1] for entry in before[0]} == {__file__}


def test_types_named_in_a_string_signature_are_still_found(traced: Traced) -> None:
    class Person(pydantic.BaseModel):
        """DSPy looks for it in the frames of the callers, ours among them."""

        name: str

    class Program(dspy.Module):
        def forward(self) -> Any:
            return dspy.Signature("question -> person: Person").output_fields["person"].annotation

    assert Program()() is Person


def test_names_of_our_frames_are_not_taken_for_types(traced: Traced) -> None:
    class Program(dspy.Module):
        def forward(self, name: str) -> Any:
            return dspy.Signature(f"question -> answer: {name}")

    for name in ("original", "operation", "call", "runtime", "result", "token", "Call"):
        with pytest.raises(Exception, match=name):
            Program()(name)


def test_the_warning_of_a_direct_forward_call_is_as_before(
    trace_with: TraceWith, caplog: pytest.LogCaptureFixture
) -> None:
    class Quiet(dspy.Module):
        def forward(self) -> str:
            return "done"

    logger = logging.getLogger("dspy.primitives.module")
    logger.addHandler(caplog.handler)
    try:
        trace_with()
        Quiet()()
        quiet = len(caplog.records)
        Quiet().forward()
    finally:
        logger.removeHandler(caplog.handler)
    assert quiet == 0
    assert any("directly is discouraged" in record.message for record in caplog.records)
