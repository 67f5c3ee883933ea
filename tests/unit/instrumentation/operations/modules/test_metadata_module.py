# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The program on a module's span: its fields, its inputs, its CPU time."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any, Literal

import dspy
import pydantic
import pytest

from opentelemetry.instrumentation.dspy._operations.modules import resource_usage
from tests.support.lms import DSPY, EchoLM, Version
from tests.support.prompt_lm import PromptLM
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

QA = "question -> answer"
# Before, a field of a string signature that names no type looks like one of type str.
KNOWS_UNDEFINED_TYPES = Version("3.2") <= DSPY


# --- inputs -----------------------------------------------------------------------------------


class Typed(dspy.Signature):
    """Everything that a field can be."""

    text: str = dspy.InputField()
    count: int = dspy.InputField()
    share: float = dspy.InputField()
    names: list[str] = dspy.InputField()
    options: dict[str, Any] = dspy.InputField()
    kind: Literal["a", "b"] = dspy.InputField()
    maybe: int | None = dspy.InputField()
    anything: Any = dspy.InputField()
    given: str = dspy.InputField(default="by default")
    answer: str = dspy.OutputField()


RIGHT: dict[str, Any] = {
    "text": "t",
    "count": 1,
    "share": 1,
    "names": ["n"],
    "options": {},
    "kind": "a",
    "anything": object(),
}
FAULTS = ("missing_inputs", "extra_inputs", "mistyped_inputs")


def faults(traced: Traced) -> dict[str, Any]:
    attributes = traced.attributes("invoke_workflow Predict")
    return {name: attributes.get(f"dspy.module.{name}") for name in FAULTS}


def _without(**wrong: Any) -> dict[str, Any]:
    return {**dict.fromkeys(FAULTS), **wrong}


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_right_inputs(traced: Traced, mode: str) -> None:
    predict = dspy.Predict(Typed)
    with dspy.context(lm=PromptLM()):
        predict(**RIGHT) if mode == "sync" else await predict.acall(**RIGHT)
    assert faults(traced) == _without()


def test_options_of_the_call_are_no_inputs(traced: Traced) -> None:
    options = {"config": {"temperature": 0.5}, "lm": PromptLM(), "demos": []}
    dspy.Predict(QA)(question="?", **options)
    assert faults(traced) == _without()


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_missing_and_extra_inputs(traced: Traced, mode: str) -> None:
    given = {name: value for name, value in RIGHT.items() if name not in ("text", "kind")}
    predict = dspy.Predict(Typed)
    with dspy.context(lm=EchoLM()):
        if mode == "sync":
            predict(**given, txt="t")
        else:
            await predict.acall(**given, txt="t")
    assert faults(traced) == _without(missing_inputs=("text", "kind"), extra_inputs=("txt",))


def test_mistyped_inputs(traced: Traced) -> None:
    wrong = {**RIGHT, "count": "1", "share": "x", "names": "n", "options": [], "maybe": "m"}
    with dspy.context(lm=EchoLM()):
        dspy.Predict(Typed)(**wrong)
    assert faults(traced) == _without(
        mistyped_inputs=("count", "share", "names", "options", "maybe")
    )


@pytest.mark.parametrize("value", [{"a": 1}, 5, None, ["x"]])
def test_a_field_without_a_type_takes_anything(traced: Traced, value: Any) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Predict(QA)(question=value)
    assert faults(traced) == _without()


@pytest.mark.skipif(not KNOWS_UNDEFINED_TYPES, reason="this dspy does not tell")
def test_a_text_that_is_none(traced: Traced) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Predict(Typed)(**{**RIGHT, "text": {"not": "text"}})
        traced_faults = faults(traced)
        traced.clear()
        # DSPy itself takes a list of texts for a text.
        dspy.Predict(Typed)(**{**RIGHT, "text": ["a", "b"]})
    assert traced_faults == _without(mistyped_inputs=("text",))
    assert faults(traced) == _without()


def test_a_signature_given_with_the_call(traced: Traced) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Predict(Typed)(question="?", signature=dspy.Signature(QA))
    assert faults(traced) == _without()
    attributes = traced.attributes("invoke_workflow Predict")
    assert attributes["dspy.module.signature"] == "question -> answer"


def test_names_only_without_content(trace_with: TraceWith) -> None:
    traced = trace_with(capture_content=False)
    with dspy.context(lm=EchoLM()):
        dspy.Predict(Typed)(**{**RIGHT, "count": "canary"}, other="canary")
    assert faults(traced) == _without(extra_inputs=("other",), mistyped_inputs=("count",))


# --- signature fields -------------------------------------------------------------------------


class Point(pydantic.BaseModel):
    x: int


class Described(dspy.Signature):
    """Find it."""

    query: str = dspy.InputField(desc="what to look for")
    points: list[Point] = dspy.InputField(min_length=1)
    limit: int = dspy.InputField(default=3)
    found: Literal["yes", "no"] | None = dspy.OutputField()


def test_the_fields_of_a_signature(traced: Traced) -> None:
    with dspy.context(lm=EchoLM("[[ ## found ## ]]\nyes")):
        dspy.Predict(Described)(query="q", points=[Point(x=1)])
    fields = traced.content("invoke_workflow Predict", "dspy.signature.fields")
    points = fields[1].pop("type")
    found = fields[3].pop("type")
    assert fields == [
        {
            "name": "query",
            "role": "input",
            "type": "str",
            "description": "what to look for",
            "required": True,
        },
        {
            "name": "points",
            "role": "input",
            "constraints": "minimum length: 1",
            "required": True,
        },
        {"name": "limit", "role": "input", "type": "int", "required": False, "default": 3},
        {"name": "found", "role": "output", "required": True},
    ]
    assert "Point" in points
    assert "yes" in found
    assert list(fields[0]) == ["name", "role", "type", "description", "required"]


@pytest.mark.parametrize("settings", [{"capture_content": False}, {"capture_signatures": False}])
def test_no_fields_where_they_are_not_wanted(trace_with: TraceWith, settings: Any) -> None:
    traced = trace_with(**settings)
    with dspy.context(lm=EchoLM("[[ ## found ## ]]\nyes")):
        dspy.Predict(Described)(query="q", points=[Point(x=1)])
    assert "dspy.signature.fields" not in traced.attributes("invoke_workflow Predict")


def test_many_fields_are_cut_and_stay_json(trace_with: TraceWith) -> None:
    traced = trace_with(max_content_length=1_000)
    inputs = ", ".join(f"input_number_{number}" for number in range(100))
    with dspy.context(lm=EchoLM()):
        dspy.Predict(f"{inputs} -> answer")(input_number_0="x")
    attributes = traced.attributes("invoke_workflow Predict")
    assert json.loads(attributes["dspy.signature.fields"])
    assert "dspy.signature.fields" in attributes["dspy.truncated"]


# --- CPU time, memory and completions ---------------------------------------------------------


class Busy(dspy.Module):
    def forward(self, seconds: float) -> str:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        time.sleep(0.05)  # costs no CPU time
        return "done"

    async def aforward(self, seconds: float) -> str:
        return "done"


def test_the_cpu_time_of_a_synchronous_call(traced: Traced) -> None:
    Busy()(seconds=0.02)
    used = traced.attributes("invoke_workflow Busy")["dspy.module.cpu_time"]
    assert isinstance(used, float)
    assert used >= 0.02


def test_the_cpu_time_of_a_call_that_fails(traced: Traced) -> None:
    with pytest.raises(TypeError):
        Busy()(seconds="x")
    assert traced.attributes("invoke_workflow Busy")["dspy.module.cpu_time"] >= 0


async def test_no_cpu_time_of_an_asynchronous_call(traced: Traced) -> None:
    await Busy().acall(seconds=0)
    assert "dspy.module.cpu_time" not in traced.attributes("invoke_workflow Busy")


def test_the_cpu_time_is_that_of_one_thread(trace_with: TraceWith) -> None:
    traced = trace_with(resource_usage="all")

    class Delegating(dspy.Module):
        def forward(self) -> None:
            worker = threading.Thread(target=lambda: Busy()(seconds=0.03))
            worker.start()
            worker.join()

    before = time.thread_time_ns()
    Delegating()()
    used_here = (time.thread_time_ns() - before) / 1e9
    assert traced.attributes("invoke_workflow Delegating")["dspy.module.cpu_time"] <= used_here
    assert traced.attributes("invoke_workflow Busy")["dspy.module.cpu_time"] >= 0.03


CPU_TIME = "dspy.module.cpu_time"
MEMORY = "dspy.module.memory_growth"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="no resident size elsewhere")


class Hoarding(dspy.Module):
    """Takes memory itself, and in an inner module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Busy()

    def forward(self) -> Any:
        self.inner(seconds=0)
        self.hoard = bytearray(b"x") * 50_000_000


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("off", {"invoke_workflow Hoarding": False, "Busy inner": False}),
        ("outermost", {"invoke_workflow Hoarding": True, "Busy inner": False}),
        ("all", {"invoke_workflow Hoarding": True, "Busy inner": True}),
    ],
)
@ON_LINUX
def test_which_modules_are_measured(
    trace_with: TraceWith, setting: str, expected: dict[str, bool]
) -> None:
    traced = trace_with(resource_usage=setting)
    Hoarding()()
    for name, is_measured in expected.items():
        attributes = traced.attributes(name)
        assert (CPU_TIME in attributes, MEMORY in attributes) == (is_measured, is_measured)


@pytest.mark.parametrize("setting", ["off", "outermost"])
def test_what_is_not_measured_reads_no_clock(
    trace_with: TraceWith, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    trace_with(resource_usage=setting)
    read: list[int] = []
    monkeypatch.setattr(time, "thread_time_ns", lambda: read.append(1) or 0)
    monkeypatch.setattr(resource_usage, "resident_size", lambda: read.append(1) or 0)

    class Nesting(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict(QA)

        def forward(self) -> Any:
            return [self.answer(question="?") for _ in range(3)]

    with dspy.context(lm=EchoLM()):
        Nesting()()
    assert len(read) == (0 if setting == "off" else 4)


@ON_LINUX
def test_the_growth_of_memory_is_in_bytes(traced: Traced) -> None:
    Hoarding()()
    grown = traced.attributes("invoke_workflow Hoarding")[MEMORY]
    assert isinstance(grown, int)
    assert grown > 40_000_000


@ON_LINUX
async def test_an_asynchronous_call_has_the_growth_of_memory(traced: Traced) -> None:
    await Busy().acall(seconds=0)
    assert MEMORY in traced.attributes("invoke_workflow Busy")


def test_a_system_without_a_resident_size(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource_usage, "_STATM", "/no/such/file")
    Busy()(seconds=0)
    attributes = traced.attributes("invoke_workflow Busy")
    assert MEMORY not in attributes
    assert CPU_TIME in attributes


@ON_LINUX
async def test_a_streamed_program_is_measured_in_its_own_thread(traced: Traced) -> None:
    async for _ in dspy.streamify(Counting())(seconds=0.02):
        time.sleep(0.05)
    attributes = traced.attributes("invoke_workflow Counting")
    assert attributes[CPU_TIME] >= 0.02
    assert MEMORY in attributes


class Counting(Busy):
    def forward(self, seconds: float) -> Any:
        return dspy.Prediction(answer=super().forward(seconds))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_completions_are_counted(traced: Traced, count: int, mode: str) -> None:
    predict = dspy.Predict(QA, n=count)

    class Many(EchoLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            response = super().forward(prompt, messages)
            response.choices *= kwargs.get("n", 1)
            return response

        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return Many.forward(self, prompt, messages, **kwargs)

    with dspy.context(lm=Many()):
        predict(question="?") if mode == "sync" else await predict.acall(question="?")
    attributes = traced.attributes("invoke_workflow Predict")
    assert attributes["dspy.prediction.completion.count"] == count


def test_a_prediction_made_by_hand_has_no_completions(traced: Traced) -> None:
    class ByHand(dspy.Module):
        def forward(self) -> Any:
            return dspy.Prediction(answer="x")

    ByHand()()
    assert "dspy.prediction.completion.count" not in traced.attributes("invoke_workflow ByHand")
