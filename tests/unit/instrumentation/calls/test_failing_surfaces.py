# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Every surface when what it calls fails: the caller gets that very error, and the span says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.adapters.baml_adapter import BAMLAdapter
from opentelemetry.trace import StatusCode

from tests.support.traced import Traced

QA = "question -> answer"


class BrokenError(RuntimeError):
    """What every surface here meets."""


BROKEN = BrokenError("out of order")


def broken(*args: Any, **kwargs: Any) -> Any:
    raise BROKEN


async def broken_later(*args: Any, **kwargs: Any) -> Any:
    raise BROKEN


class BrokenLM(dspy.BaseLM):
    def __init__(self) -> None:
        super().__init__("broken", cache=False)

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise BROKEN

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise BROKEN


class Program(dspy.Module):
    forward = broken
    aforward = broken_later


class Search(dspy.Retrieve):
    forward = broken


def adapted(adapter: Callable[[], Any]) -> tuple[Any, Any]:
    arguments = {}, dspy.Signature(QA), [], {"question": "?"}
    return (
        lambda: adapter()(BrokenLM(), *arguments),
        lambda: adapter().acall(BrokenLM(), *arguments),
    )


def embeddings() -> Any:
    corpus = ["a", "b"]
    retriever = dspy.retrievers.Embeddings(corpus, lambda texts: [[1.0, 0.0]] * len(texts), k=1)
    retriever.embedder = broken
    return retriever("?")


SURFACES: dict[str, tuple[str, Any, Any]] = {
    "module": (
        "invoke_workflow Program",
        lambda: Program()(question="?"),
        lambda: Program().acall(question="?"),
    ),
    "predict": (
        "invoke_workflow Predict",
        lambda: dspy.Predict(QA)(question="?"),
        lambda: dspy.Predict(QA).acall(question="?"),
    ),
    "chain of thought": (
        "invoke_workflow ChainOfThought",
        lambda: dspy.ChainOfThought(QA)(question="?"),
        lambda: dspy.ChainOfThought(QA).acall(question="?"),
    ),
    "LM": ("chat broken", lambda: BrokenLM()("?"), lambda: BrokenLM().acall("?")),
    "ChatAdapter": ("ChatAdapter", *adapted(dspy.ChatAdapter)),
    "JSONAdapter": ("JSONAdapter", *adapted(dspy.JSONAdapter)),
    "XMLAdapter": ("XMLAdapter", *adapted(dspy.XMLAdapter)),
    "BAMLAdapter": ("BAMLAdapter", *adapted(BAMLAdapter)),
    "tool": (
        "execute_tool broken",
        dspy.Tool(broken, name="broken", args={}),
        lambda: dspy.Tool(broken_later, name="broken", args={}).acall(),
    ),
    "embedder": (
        "embeddings broken",
        lambda: dspy.Embedder(broken, caching=False)(["a"]),
        lambda: dspy.Embedder(broken, caching=False).acall(["a"]),
    ),
    "retriever": ("retrieval Search", lambda: Search()("?"), None),
    "Embeddings": ("retrieval Embeddings", embeddings, None),
    "KNN": ("retrieval KNN", lambda: _knn()(question="?"), None),
    "asyncify": ("invoke_workflow Program", None, lambda: dspy.asyncify(Program())(question="?")),
}


def _knn() -> Any:
    example = dspy.Example(question="?", answer="!").with_inputs("question")
    knn = dspy.KNN(1, [example], vectorizer=dspy.Embedder(lambda texts: [[1.0]] * len(texts)))
    knn.embedding = broken
    return knn


def _runs() -> list[Any]:
    return [
        pytest.param(name, run, id=f"{surface}-{mode}")
        for surface, (name, *runs) in SURFACES.items()
        for mode, run in zip(("sync", "async"), runs, strict=True)
        if run is not None
    ]


@pytest.mark.parametrize(("name", "run"), _runs())
def test_the_error_is_the_programs_and_on_the_span(
    traced: Traced, name: str, run: Callable[[], Any]
) -> None:
    async def awaited() -> Any:
        result = run()
        return await result if asyncio.iscoroutine(result) else result

    with dspy.context(lm=BrokenLM()), pytest.raises(Exception) as caught:
        asyncio.run(awaited())
    assert BROKEN in _members(caught.value)
    span = traced.span(name)
    assert span.status.status_code is StatusCode.ERROR
    kind = f"{__name__}.BrokenError"
    if _members(caught.value) == [BROKEN]:
        assert span.status.description == f"{kind}: out of order"
        assert span.attributes["error.type"] == kind
        (event,) = [event for event in span.events if event.name == "exception"]
        assert event.attributes["exception.type"] == kind
        assert event.attributes["exception.message"] == "out of order"
    assert span.parent is None


def _members(error: BaseException) -> list[BaseException]:
    """An error, or what a group of them consists of."""
    inner = getattr(error, "exceptions", None)
    return [error] if inner is None else [one for part in inner for one in _members(part)]
