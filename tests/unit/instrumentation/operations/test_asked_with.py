# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What was asked and what with: arguments, options, tools, metadata, beside the values."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import dspy
import pytest
from dspy.retrievers.retrieve import Retrieve

from tests.support.lms import EchoLM, answering
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith


class Search(Retrieve):
    def __init__(self, k: int = 3) -> None:
        super().__init__(k=k)
        self.collection_name = "articles"

    def forward(self, query: str, n: int = 5, filter: Any = None, **more: Any) -> Any:
        return [{"text": "a"}] * (n or 1)


@pytest.mark.surface("Retrieve")
@pytest.mark.parametrize(
    ("args", "kwargs", "top_k"),
    [
        ((), {"n": 2}, 2),
        ((), {"top_k": 4}, 4),
        ((), {"limit": 1}, 1),
        ((7,), {}, 7),
        ((), {}, 3),
        ((), {"n": True}, 3),
    ],
)
def test_the_number_of_documents_is_that_of_the_call(
    traced: Traced, args: Any, kwargs: Any, top_k: int
) -> None:
    Search()("q", *args, **kwargs)
    attributes = traced.attributes("retrieval Search")
    assert attributes["gen_ai.retrieval.top_k"] == top_k
    assert attributes["gen_ai.data_source.id"] == "articles"
    assert "dspy.retrieval.arguments" not in attributes


@pytest.mark.surface("Retrieve")
@pytest.mark.parametrize("how", ["positional", "by keyword"])
def test_filters_are_recorded(traced: Traced, how: str) -> None:
    chosen = {"year": 2024, "api_key": "canary-1"}
    if how == "positional":
        Search()("q", 2, chosen)
    else:
        Search()("q", n=2, filter=chosen)
    arguments = traced.content("retrieval Search", "dspy.retrieval.arguments")
    assert arguments == {"filter": {"year": 2024, "api_key": "[REDACTED]"}}


@pytest.mark.surface("Retrieve")
def test_filters_are_content(trace_with: TraceWith) -> None:
    traced = trace_with(capture_content=False)
    Search()("q", n=2, filter="canary-1")
    assert "canary" not in everything_in(traced.spans)
    hidden = trace_with(redact="regex:canary-[0-9]")
    Search()("q", n=2, filter="canary-1")
    assert "canary" not in everything_in(hidden.spans)
    assert "dspy.retrieval.arguments" in hidden.attributes("retrieval Search")


class Reporting(dspy.BaseLM):
    """An LM that overrides ``__call__``, as gateways of programs do."""

    def __init__(self, entries: int = 1) -> None:
        super().__init__("reporting", cache=False)
        self.entries = entries

    def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        for _ in range(self.entries):
            usage = {"prompt_tokens": 3, "completion_tokens": 2}
            self.update_history({"usage": usage, "cost": 0.5, "response_model": "r-1"})
        return ["x"]


@pytest.mark.surface("LM")
@pytest.mark.parametrize("entries", [1, 2])
def test_usage_in_the_history_of_an_lm_is_recorded(traced: Traced, entries: int) -> None:
    assert Reporting(entries)("hello") == ["x"]
    attributes = traced.attributes("chat reporting")
    assert attributes["gen_ai.usage.input_tokens"] == 3 * entries
    assert attributes["gen_ai.usage.output_tokens"] == 2 * entries
    assert attributes["dspy.lm.cost.total"] == 0.5 * entries
    assert attributes["gen_ai.response.model"] == "r-1"


@pytest.mark.surface("LM")
def test_usage_that_dspy_reports_is_not_counted_twice(traced: Traced) -> None:
    EchoLM()("hello")
    assert traced.attributes("chat echo")["gen_ai.usage.input_tokens"] == 3


def weather(city: str) -> str:
    """Tells the weather."""
    return "sunny"


STEP = {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": "{}"}


def run_agent() -> None:
    agent = dspy.ReAct("question -> answer", tools=[weather], max_iters=3)
    lm = dspy.utils.DummyLM([STEP, {"reasoning": "r", "answer": "canary-2"}])
    with dspy.context(lm=lm):
        agent(question="canary-1")


@pytest.mark.surface("ReAct")
def test_an_agent_has_tools_and_messages(traced: Traced) -> None:
    run_agent()
    name = "invoke_agent ReAct"
    (tool,) = traced.content(name, "gen_ai.tool.definitions")
    assert (tool["type"], tool["name"], tool["description"]) == (
        "function",
        "weather",
        "Tells the weather.",
    )
    assert traced.content(name, "gen_ai.input.messages") == [
        {"role": "user", "parts": [{"type": "text", "content": "canary-1"}]}
    ]
    (answer,) = traced.content(name, "gen_ai.output.messages")
    assert (answer["role"], answer["finish_reason"]) == ("assistant", "stop")
    assert "canary-2" in answer["parts"][0]["content"]
    assert json.loads(traced.attributes(name)["dspy.module.config"]) == {"max_iters": 3}


@pytest.mark.surface("ReAct")
@pytest.mark.parametrize("settings", [{"capture_content": False}, {"redact": "regex:canary-[0-9]"}])
def test_messages_of_an_agent_are_content(trace_with: TraceWith, settings: Any) -> None:
    traced = trace_with(**settings)
    run_agent()
    assert "canary" not in everything_in(traced.spans)


@pytest.mark.surface("Predict")
def test_the_config_of_a_predict(trace_with: TraceWith) -> None:
    def config(**settings: Any) -> Any:
        traced = trace_with(**settings)
        with dspy.context(lm=EchoLM()):
            options = {"temperature": 0.5, "api_key": "canary-1", "user": "canary-2"}
            dspy.Predict("question -> answer", **options)(question="?")
            dspy.Predict("question -> answer")(question="?")
        name = "invoke_workflow Predict question -> answer"
        first, second = (span.attributes for span in traced.spans if span.name == name)
        assert "dspy.module.config" not in (second or {})
        return json.loads((first or {})["dspy.module.config"])

    assert config() == {"temperature": 0.5, "api_key": "[REDACTED]", "user": "canary-2"}
    assert config(capture_content=False) == {"temperature": 0.5}


class Program(dspy.Module):
    def forward(self, question: str, limit: int = 1) -> Any:
        return dspy.Prediction(answer=question, count=limit)


@pytest.mark.surface("workflow")
def test_types_of_a_module_without_a_signature(trace_with: TraceWith) -> None:
    traced = trace_with(capture_content=False)
    Program()(question="canary-1", limit=2)
    attributes = traced.attributes("invoke_workflow Program")
    assert attributes["dspy.module.input_types"] == ("question: str", "limit: int")
    assert attributes["dspy.module.output_types"] == ("answer: str", "count: int")
    without = trace_with(capture_signatures=False)
    Program()(question="?")
    assert "dspy.module.input_types" not in without.attributes("invoke_workflow Program")


class EmailDraft(dspy.Signature):
    """Write a mail."""

    trace_metadata: ClassVar[dict[str, Any]] = {"team": "mail", "token": "canary-3"}
    topic: str = dspy.InputField()
    answer: str = dspy.OutputField()


@pytest.mark.surface("Predict")
@pytest.mark.parametrize("name", ["EmailDraft", f"{__name__}.EmailDraft"])
def test_metadata_of_a_signature(trace_with: TraceWith, name: str) -> None:
    traced = trace_with(signature_metadata={name: {"owner": "x"}, "Other": {"owner": "y"}})
    with dspy.context(lm=answering()):
        dspy.Predict(EmailDraft)(topic="t")
    attributes = traced.attributes("invoke_workflow Predict")
    assert attributes["dspy.signature.qualified_name"] == f"{__name__}.EmailDraft"
    assert json.loads(attributes["dspy.signature.metadata"]) == {
        "team": "mail",
        "token": "[REDACTED]",
        "owner": "x",
    }


@pytest.mark.surface("Predict")
def test_a_signature_without_metadata(traced: Traced) -> None:
    with dspy.context(lm=answering()):
        dspy.Predict("question -> answer")(question="?")
    attributes = traced.attributes("invoke_workflow Predict")
    assert "dspy.signature.metadata" not in attributes
    assert "dspy.signature.qualified_name" not in attributes


@pytest.mark.parametrize("given", ["x", {"EmailDraft": "x"}])
def test_metadata_of_another_shape_is_refused(trace_with: TraceWith, given: Any) -> None:
    with pytest.raises(ValueError, match="signature_metadata"):
        trace_with(signature_metadata=given)


@pytest.mark.surface("compile")
@pytest.mark.parametrize("how", ["positional", "by keyword"])
def test_a_compilation_says_of_what(traced: Traced, how: str) -> None:
    class Teleprompter(dspy.teleprompt.Teleprompter):
        def compile(
            self, student: Any, trainset: Any, teacher: Any = None, valset: Any = None
        ) -> Any:
            return student

    class Student(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, **inputs: Any) -> Any:
            return self.predict(**inputs)

    student, examples = Student(), [dspy.Example()] * 3
    if how == "positional":
        Teleprompter().compile(student, examples, dspy.Predict("a -> b"), examples[:2])
    else:
        teacher = [dspy.Predict("a -> b"), student]
        Teleprompter().compile(
            student=student, trainset=examples, teacher=teacher, valset=examples[:2]
        )
    attributes = traced.attributes("compile Teleprompter")
    assert attributes["dspy.optimizer.student"] == "Student"
    teachers = "Predict" if how == "positional" else "Predict, Student"
    assert attributes["dspy.optimizer.teacher"] == teachers
    assert attributes["dspy.optimizer.trainset.count"] == 3
    assert attributes["dspy.optimizer.valset.count"] == 2
    hashed = attributes["dspy.program.hash"]
    with dspy.context(lm=answering()):
        student(question="?")
    assert traced.attributes("invoke_workflow Student")["dspy.program.hash"] == hashed
