# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Uninstrumenting restores the same objects, whatever happened meanwhile."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import dspy
import pytest
from dspy.clients.base_lm import BaseLM

from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.lms import EchoLM, answering
from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

QA = "question -> answer"


class UserLM(EchoLM):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class UserAdapter(dspy.ChatAdapter):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)

    def parse(self, signature: Any, completion: Any) -> Any:
        return super().parse(signature, completion)


class UserModule(dspy.Module):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)

    def forward(self, question: str) -> str:
        return question


def owners() -> Iterator[Any]:
    """Every module and class of DSPy, and every class below one of DSPy's."""
    roots: set[Any] = {dspy.Module, BaseLM, dspy.Adapter, dspy.Tool}
    for name, module in list(sys.modules.items()):
        if name == "dspy" or name.startswith("dspy."):
            yield module
            found = [value for value in vars(module).values() if isinstance(value, type)]
            roots.update(cls for cls in found if cls.__module__.startswith("dspy"))
    seen: set[type] = set()
    while roots:
        cls = roots.pop()
        if cls not in seen:
            seen.add(cls)
            roots.update(type.__subclasses__(cls))
            yield cls


def snapshot() -> dict[Any, dict[str, Any]]:
    return {owner: dict(vars(owner)) for owner in owners()}


def differences(before: dict[Any, dict[str, Any]]) -> list[str]:
    found: list[str] = []
    for owner, then in before.items():
        now = vars(owner)
        changed = {name for name in then if now.get(name, None) is not then[name]}
        added = set() if isinstance(owner, types.ModuleType) else set(now) - set(then)
        found += [f"{owner.__name__}.{name}" for name in changed | added]
    return found


@pytest.fixture
def before(trace_with: TraceWith) -> dict[Any, dict[str, Any]]:
    # Once in advance, since the first time imports what DSPy imports late.
    trace_with()
    uninstrument()
    return snapshot()


def test_something_was_changed_at_all(before: Any, trace_with: TraceWith) -> None:
    trace_with()
    expected = {"Module.__call__", "Tool.acall", "UserLM.__call__", "UserAdapter.format"}
    assert expected <= set(differences(before))


@pytest.mark.parametrize(
    "settings",
    [{}, {"adapter_steps": "spans"}, {"capture_intermediate_steps": False}],
    ids=["default", "steps as spans", "without adapters"],
)
def test_every_attribute_is_the_very_same(
    before: Any, trace_with: TraceWith, settings: dict[str, Any]
) -> None:
    trace_with(**settings)
    uninstrument()
    assert differences(before) == []


def test_also_after_calls_and_new_classes(before: Any, trace_with: TraceWith) -> None:
    trace_with()

    class LateLM(UserLM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    class LateAdapter(UserAdapter):
        def format(self, signature: Any, demos: Any, inputs: Any) -> Any:
            return super().format(signature, demos, inputs)

    written = {cls: dict(vars(cls)) for cls in (LateLM, LateAdapter)}
    with dspy.context(lm=LateLM(), adapter=LateAdapter()):
        dspy.Predict(QA)(question="?")
    uninstrument()
    assert differences(before) == []
    assert isinstance(vars(LateLM)["__call__"], types.FunctionType)
    assert {type(vars(LateAdapter)[name]) for name in ("format", "parse")} == {types.FunctionType}
    for cls, attributes in written.items():
        assert set(vars(cls)) == set(attributes)


def test_the_class_gives_the_users_own_function(trace_with: TraceWith) -> None:
    def own() -> list[Any]:
        return [
            UserLM.__call__,
            UserAdapter.__call__,
            UserAdapter.parse,
            UserAdapter.format,
            dspy.ChatAdapter.format,
            dspy.JSONAdapter.__call__,
            dspy.LM.forward,
        ]

    before = own()
    trace_with()
    assert all(now is then for now, then in zip(own(), before, strict=True))


def test_three_times_on_and_off(before: Any, trace_with: TraceWith) -> None:
    traced = trace_with(capture_intermediate_steps=False)
    for _ in range(3):
        uninstrument()
        assert differences(before) == []
        with dspy.context(lm=answering()):
            dspy.Predict(QA)(question="?")
        assert traced.spans == []
        traced.instrument()
    with dspy.context(lm=answering()):
        dspy.Predict(QA)(question="?")
    assert traced.tree() == "invoke_workflow Predict question -> answer\n└─ chat dummy"


def test_objects_made_before_are_traced_and_are_not_afterwards(trace_with: TraceWith) -> None:
    with dspy.context(lm=answering()):
        program, tool = dspy.Predict(QA), dspy.Tool(len)
        held = program.__call__
        traced = trace_with()
        program(question="?")
        assert "invoke_workflow Predict question -> answer" in traced.names()
        traced.clear()
        held_while_traced = program.__call__
        uninstrument()
        program(question="?")
        held(question="?")
        held_while_traced(question="?")
    assert traced.spans == []
    assert tool.name == "len"


def test_in_the_middle_of_a_call(trace_with: TraceWith) -> None:
    class Program(dspy.Module):
        def forward(self) -> str:
            uninstrument()
            return EchoLM("after")("hello")[0]

    traced = trace_with()
    assert Program()() == "after"
    assert traced.names() in ([], ["invoke_workflow Program"])
    assert all(span.end_time for span in traced.spans)


def test_on_and_off_while_other_threads_call(before: Any, trace_with: TraceWith) -> None:
    traced, done = trace_with(), threading.Event()

    def call() -> list[str]:
        program, answers = UserModule(), []
        while not done.is_set():
            answers.append(program(question="?"))
            answers += EchoLM("!")("hello")
        return answers

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(call) for _ in range(4)]
        for _ in range(25):
            uninstrument()
            traced.instrument()
        done.set()
        answers = [answer for future in futures for answer in future.result()]
    uninstrument()
    assert set(answers) == {"?", "!"}
    assert differences(before) == []
    assert {span.name for span in traced.spans} <= {"invoke_workflow UserModule", "chat echo"}


def test_twice_is_once(traced: Traced) -> None:
    traced.instrument()
    with dspy.context(lm=answering()):
        dspy.Predict(QA)(question="?")
    assert traced.names().count("invoke_workflow Predict question -> answer") == 1


def test_other_code_that_patched_after_us(
    traced: Traced, telemetry_log: TelemetryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    ours = dspy.Module.__call__

    def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(type(self).__name__)
        return ours(self, *args, **kwargs)

    original = ours.__wrapped__  # type: ignore[attr-defined]
    dspy.Module.__call__ = theirs
    try:
        uninstrument()
        (warning,) = telemetry_log.take()
        assert "dspy.primitives.module:Module.__call__ was patched by other code" in warning
        assert dspy.Module.__call__ is theirs
        assert UserModule()(question="?") == "?"
        assert traced.spans == []
        traced.instrument()
        assert UserModule()(question="?") == "?"
        assert traced.names() == ["invoke_workflow UserModule"]
        assert seen == ["UserModule"] * 2
        uninstrument()
        assert dspy.Module.__call__ is theirs
    finally:
        dspy.Module.__call__ = original


def test_a_user_who_replaces_a_method_of_a_class_while_traced(traced: Traced) -> None:
    class Swapped(UserLM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ["first"]

    def second(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ["second"]

    Swapped.__call__ = second
    assert Swapped()("hello") == ["second"]
    uninstrument()
    assert vars(Swapped)["__call__"] is second


@pytest.mark.parametrize("steps", ["attributes", "spans"])
def test_a_mock_is_put_on_and_taken_off(trace_with: TraceWith, steps: str) -> None:
    traced = trace_with(adapter_steps=steps)
    with (
        mock.patch.object(UserAdapter, "parse", lambda *args: {"answer": "mocked"}),
        dspy.context(lm=EchoLM(), adapter=UserAdapter()),
    ):
        assert dspy.Predict(QA)(question="?").answer == "mocked"
    traced.clear()
    with dspy.context(lm=EchoLM(), adapter=UserAdapter()):
        assert dspy.Predict(QA)(question="?").answer == "blue"
    if steps == "spans":
        assert "UserAdapter.parse" in traced.names()
    else:
        assert "dspy.adapter.parse.duration" in traced.attributes("UserAdapter")


def test_uninstrument_is_a_warning_where_there_is_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    uninstrument()
    DSPyInstrumentor().uninstrument()
    assert any("already uninstrumented" in record.message for record in caplog.records)
