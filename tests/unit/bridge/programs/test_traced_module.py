# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A module with the name, tags and metadata of its traces is the module in all other respects."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest
from dspy.utils import DummyLM
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mlflow_bridge import MLflowBatchSpanProcessor, TracedModule, trace_context
from mlflow_bridge._spans.trace_context import current_trace_context
from opentelemetry.instrumentation.dspy import DSPyInstrumentor
from tests.support.fake_delivery import FakeDelivery

ANSWER = {"reasoning": "It is.", "answer": "Tokyo"}
TRAINSET = [
    dspy.Example(question=f"question {n}", answer="Tokyo").with_inputs("question") for n in range(3)
]


class QA(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.think = dspy.ChainOfThought("question -> answer")
        self.limit = 3

    def forward(self, question: str) -> Any:
        return self.think(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.think.acall(question=question)

    def shout(self) -> str:
        return "!" * self.limit


class Spans:
    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(MLflowBatchSpanProcessor(FakeDelivery()))
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))

    def roots(self) -> list[ReadableSpan]:
        return [span for span in self.memory.get_finished_spans() if span.parent is None]


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    DSPyInstrumentor().instrument(tracer_provider=found.provider)
    with dspy.context(lm=DummyLM([ANSWER] * 200)):
        yield found
    DSPyInstrumentor().uninstrument()


def values_of(span: ReadableSpan) -> dict[str, Any]:
    names = ("session.id", "user.id", "mlflow.traceTag.", "mlflow_bridge.")
    return {key: value for key, value in (span.attributes or {}).items() if key.startswith(names)}


def traced() -> TracedModule:
    return TracedModule(QA(), "qa", tags={"team": 1}, metadata={"release": 7, "session_id": "s"})


EXPECTED = {
    "mlflow.traceTag.mlflow.traceName": "qa",
    "mlflow.traceTag.team": "1",
    "mlflow_bridge.trace_metadata.release": "7",
    "session.id": "s",
}


async def test_one_call_is_one_trace_without_a_span_of_its_own(spans: Spans) -> None:
    module: Any = traced()
    assert module(question="a").answer == "Tokyo"
    assert module.forward(question="b").answer == "Tokyo"
    assert (await module.acall(question="c")).answer == "Tokyo"
    assert (await module.aforward(question="d")).answer == "Tokyo"
    roots = spans.roots()
    assert [span.name for span in roots] == ["invoke_workflow QA"] * 4
    assert [values_of(span) for span in roots] == [EXPECTED] * 4
    QA()(question="e")
    count = len(spans.memory.get_finished_spans())
    assert count % 5 == 0
    assert values_of(spans.roots()[-1]) == {}


class Streaming(dspy.Module):
    """A program that works after the call has returned."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self) -> Any:
        if self.kind == "generator":
            return self.steps()
        return self.steps_async() if self.kind == "async generator" else self.result()

    async def aforward(self) -> Any:
        return self.forward()

    def steps(self) -> Any:
        yield user_now()
        yield user_now()

    async def steps_async(self) -> Any:
        yield user_now()
        yield user_now()

    async def result(self) -> Any:
        return user_now()


def user_now() -> str | None:
    values = current_trace_context()
    return values.user_id if values else None


async def consumed(result: Any) -> Any:
    if inspect.iscoroutine(result):
        return {await result}
    return {each async for each in result} if hasattr(result, "__anext__") else {*result}


@pytest.mark.parametrize("kind", ["generator", "async generator", "coroutine"])
async def test_work_after_the_call_has_the_values(kind: str) -> None:
    module: Any = TracedModule(Streaming(kind), metadata={"user_id": "u"})
    assert await consumed(module()) == {"u"}
    assert await consumed(await module.acall()) == {"u"}
    assert user_now() is None


def test_inside_of_a_trace_the_values_go_on_the_trace(spans: Spans) -> None:
    module = traced()
    tracer = spans.provider.get_tracer("test")
    with trace_context(tags={"channel": "web"}), tracer.start_as_current_span("request"):
        module(question="a")
    [root] = spans.roots()
    without_session = {key: value for key, value in EXPECTED.items() if key != "session.id"}
    assert values_of(root) == {**without_session, "mlflow.traceTag.channel": "web"}


def test_metadata_of_later_calls(spans: Spans) -> None:
    module = TracedModule(QA())
    module.set_metadata({"release": 1, "region": "eu"})
    module.set_metadata({"release": 2, "session_id": ["s1", "s2"], "user_id": "ada"})
    module(question="a")
    assert values_of(spans.roots()[0]) == {
        "mlflow_bridge.trace_metadata.release": "2",
        "mlflow_bridge.trace_metadata.region": "eu",
        "session.id": '["s1", "s2"]',
        "user.id": "ada",
    }


def test_an_exception_passes(spans: Spans) -> None:
    class Failing(dspy.Module):
        def forward(self) -> None:
            raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        TracedModule(Failing(), tags={"team": 1})()
    assert values_of(spans.roots()[0]) == {"mlflow.traceTag.team": "1"}


def test_attributes_are_those_of_the_wrapped_module() -> None:
    module: Any = traced()
    assert isinstance(module, dspy.Module)
    module.limit = 4
    assert (module.limit, module.shout()) == (4, "!!!!")
    module.added = 1
    del module.added
    assert not hasattr(module, "added")
    assert not hasattr(module, "missing")
    assert {"shout", "set_metadata", "limit"} <= set(dir(module))
    assert [name for name, _ in module.named_predictors()] == ["think.predict"]
    assert repr(module).startswith("TracedModule(think.predict = Predict(")
    lm = DummyLM([ANSWER])
    module.set_lm(lm)
    assert module.get_lm() is module.think.predict.lm is lm


@pytest.mark.parametrize("given", [None, "QA", QA, lambda: None])
def test_only_a_module_can_be_wrapped(given: Any) -> None:
    with pytest.raises(TypeError, match=r"accepted: a dspy\.Module"):
        TracedModule(given)


def prompts(module: Any) -> list[Any]:
    lm = DummyLM([ANSWER] * 10)
    with dspy.context(lm=lm):
        module(question="Capital of Japan?")
    return [call["messages"] for call in lm.history]


def test_the_prompts_are_the_same() -> None:
    assert prompts(traced()) == prompts(QA()) != []


@pytest.mark.parametrize(("save", "load"), [(traced, QA), (QA, traced), (traced, traced)])
def test_the_state_is_that_of_the_wrapped_module(save: Any, load: Any, tmp_path: Path) -> None:
    saved, loaded = save(), load()
    saved.think.predict.demos = [dspy.Example(question="q", reasoning="r", answer="a")]
    file = tmp_path / "program.json"
    saved.save(file)
    loaded.load(file)
    assert loaded.think.predict.demos[0]["answer"] == "a"
    assert prompts(loaded) == prompts(saved)


def test_a_whole_program_is_saved_without_the_wrapper(tmp_path: Path) -> None:
    traced().save(tmp_path / "program", save_program=True, modules_to_serialize=[])
    assert type(dspy.load(str(tmp_path / "program"), allow_pickle=True)).__name__ == "QA"


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        copy.copy,
        lambda module: module.deepcopy(),
        lambda module: module.reset_copy(),
        lambda module: pickle.loads(cloudpickle.dumps(module)),
    ],
)
def test_copies_are_traced_as_well(spans: Spans, copied: Any) -> None:
    module: Any = copied(traced())
    assert type(module) is TracedModule
    assert module(question="a").answer == "Tokyo"
    assert values_of(spans.roots()[0]) == EXPECTED


def test_a_deep_copy_has_a_module_of_its_own() -> None:
    module: Any = traced()
    copied: Any = copy.deepcopy(module)
    copied.limit = 9
    copied.set_metadata({"release": 8})
    assert (module.limit, copied.limit) == (3, 9)


def test_an_optimizer_compiles_the_wrapped_module(spans: Spans) -> None:
    optimizer = dspy.BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=2)
    plain, compiled = (
        optimizer.compile(program, trainset=TRAINSET) for program in (QA(), traced())
    )
    assert type(compiled) is TracedModule
    assert compiled._compiled
    assert compiled.think.predict.demos == plain.think.predict.demos != []
    assert prompts(compiled) == prompts(plain)


def test_a_batch_and_an_evaluation(spans: Spans) -> None:
    module: Any = traced()
    assert len(module.batch(TRAINSET, num_threads=2)) == len(TRAINSET)
    evaluate = dspy.Evaluate(devset=TRAINSET, metric=lambda *_: 1.0, display_progress=False)
    assert float(evaluate(module)) == 100.0


def test_predictors_can_be_replaced() -> None:
    module: Any = traced()
    other = dspy.Predict("question -> reasoning, answer")
    assert module.map_named_predictors(lambda _: other) is module
    assert module.think.predict is other


async def test_without_instrumentation() -> None:
    module: Any = traced()
    with dspy.context(lm=DummyLM([ANSWER] * 2)):
        assert module(question="a").answer == (await module.acall(question="b")).answer == "Tokyo"
