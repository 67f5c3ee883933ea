# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Every asynchronous surface in a task that is cancelled: all its spans end, as errors, at once.

And every synchronous one that is interrupted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

import dspy
import pytest
from packaging.version import Version

from tests.support.lms import DSPY, completion
from tests.support.prompt_lm import PromptLM
from tests.support.span_tree import assert_one_tree
from tests.support.traced import Traced

pytestmark = [pytest.mark.surface("workflow"), pytest.mark.surface("asyncio")]

QA = "question -> answer"


class WaitingLM(dspy.BaseLM):
    """Says that it was asked, and never answers."""

    def __init__(self) -> None:
        super().__init__("waiting", cache=False)
        self.asked = asyncio.Event()

    def __deepcopy__(self, memo: Any) -> WaitingLM:
        return self

    def copy(self, **kwargs: Any) -> WaitingLM:
        return self

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        self.asked.set()
        await asyncio.Event().wait()


class Waiting:
    """What a cancelled surface waits for."""

    def __init__(self) -> None:
        self.lm = WaitingLM()

    async def forever(self, *args: Any, **kwargs: Any) -> Any:
        self.lm.asked.set()
        await asyncio.Event().wait()

    async def search(self, query: str) -> str:
        await self.forever()
        return ""


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.ChainOfThought(QA)

    async def aforward(self, question: str) -> Any:
        return await self.generate.acall(question=question)


def program(waiting: Waiting) -> Awaitable[Any]:
    return Program().acall(question="?")


def predict(waiting: Waiting) -> Awaitable[Any]:
    return dspy.Predict(QA).acall(question="?")


def react(waiting: Waiting) -> Awaitable[Any]:
    return dspy.ReAct(QA, tools=[waiting.search]).acall(question="?")


def react_v2(waiting: Waiting) -> Awaitable[Any]:
    return dspy.ReActV2(QA, tools=[waiting.search]).acall(question="?")


def direct(waiting: Waiting) -> Awaitable[Any]:
    return waiting.lm.acall("hello")


def tool(waiting: Waiting) -> Awaitable[Any]:
    return dspy.Tool(waiting.search).acall(query="?")


def adapter(kind: str) -> Callable[[Waiting], Awaitable[Any]]:
    def run(waiting: Waiting) -> Awaitable[Any]:
        signature = dspy.Signature(QA)
        made = getattr(dspy, kind, None) or getattr(dspy.adapters, kind)
        return made().acall(waiting.lm, {}, signature, [], {"question": "?"})

    run.__name__ = kind
    return run


async def embedder(waiting: Waiting) -> Any:
    with mock.patch("litellm.aembedding", waiting.forever):
        await dspy.Embedder("openai/text-embedding-3-small", caching=False).acall(["a"])


async def stream(waiting: Waiting) -> Any:
    async for _ in dspy.streamify(Program(), is_async_program=True)(question="?"):
        pass


SURFACES: list[Any] = [
    (program, ["invoke_workflow Program", "ChainOfThought generate", "Predict generate"]),
    (predict, ["invoke_workflow Predict question -> answer", "ChatAdapter", "chat waiting"]),
    (
        react,
        ["invoke_agent ReAct question -> answer", "Predict react", "ChatAdapter", "chat waiting"],
    ),
    (direct, ["chat waiting"]),
    (tool, ["execute_tool search"]),
    (adapter("ChatAdapter"), ["ChatAdapter", "chat waiting"]),
    (adapter("JSONAdapter"), ["JSONAdapter", "chat waiting"]),
    (adapter("XMLAdapter"), ["XMLAdapter", "chat waiting"]),
    (embedder, ["embeddings text-embedding-3-small"]),
    (stream, ["invoke_workflow Program", "chat waiting"]),
    pytest.param(
        react_v2,
        ["invoke_agent ReActV2 question -> answer", "chat waiting"],
        marks=pytest.mark.skipif(Version("3.4") > DSPY, reason="dspy < 3.4: no async ReActV2"),
    ),
]


@pytest.mark.parametrize(("run", "names"), SURFACES)
async def test_a_cancelled_task(traced: Traced, run: Any, names: list[str]) -> None:
    waiting = Waiting()

    async def task() -> Any:
        with dspy.context(lm=waiting.lm):
            return await run(waiting)

    running = asyncio.ensure_future(task())
    await asyncio.wait_for(waiting.lm.asked.wait(), 60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    failed = [span for span in traced.spans if not span.status.is_ok]
    assert set(names) <= {span.name for span in failed}
    assert {(span.attributes or {})["error.type"] for span in failed} == {
        "asyncio.exceptions.CancelledError"
    }
    # What had been done before is not affected; everything around what was cancelled is.
    assert {span.name for span in traced.spans if span.status.is_ok} <= {
        "ChatAdapter.format",
        "JSONAdapter.format",
        "XMLAdapter.format",
    }
    assert_one_tree(traced.spans)


async def test_one_of_many_tasks(traced: Traced) -> None:
    """The others go on, and their spans know nothing of it."""
    waiting = Waiting()

    async def ask(lm: Any) -> Any:
        with dspy.context(lm=lm):
            return await predict(waiting)

    tasks = [asyncio.ensure_future(ask(PromptLM(["a"]))) for _ in range(4)]
    cancelled = asyncio.ensure_future(ask(waiting.lm))
    await asyncio.wait_for(waiting.lm.asked.wait(), 60)
    cancelled.cancel()
    results: list[Any] = await asyncio.gather(*tasks, cancelled, return_exceptions=True)
    assert [result.answer for result in results[:4]] == ["a"] * 4
    assert isinstance(results[4], asyncio.CancelledError)
    roots = [span for span in traced.spans if span.parent is None]
    assert sorted(span.status.is_ok for span in roots) == [False, True, True, True, True]
    chats = [span for span in traced.spans if span.name.startswith("chat")]
    assert sorted((span.name, span.status.is_ok) for span in chats) == [
        *[("chat prompt-lm", True)] * 4,
        ("chat waiting", False),
    ]


class InterruptedLM(dspy.BaseLM):
    def __init__(self) -> None:
        super().__init__("interrupted", cache=False)

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        if "again" in str(prompt):
            return completion("fine")
        raise KeyboardInterrupt


def interrupted(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


def sync_program() -> Any:
    class Sync(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generate = dspy.ChainOfThought(QA)

        def forward(self, question: str) -> Any:
            return self.generate(question=question)

    return Sync()(question="?")


INTERRUPTED: list[Callable[[], Any]] = [
    sync_program,
    lambda: dspy.settings.lm("hello"),
    dspy.Tool(interrupted, name="interrupted"),
    lambda: dspy.Embedder(interrupted, caching=False)(["a"]),
    lambda: dspy.JSONAdapter()(dspy.settings.lm, {}, dspy.Signature(QA), [], {"question": "?"}),
    lambda: dspy.BestOfN(dspy.Predict(QA), N=2, reward_fn=interrupted, threshold=1)(question="?"),
]


@pytest.mark.parametrize("run", INTERRUPTED)
def test_an_interrupted_call(traced: Traced, run: Callable[[], Any]) -> None:
    with dspy.context(lm=InterruptedLM()), pytest.raises(KeyboardInterrupt):
        run()
    failed = [span for span in traced.spans if not span.status.is_ok]
    assert {(span.attributes or {})["error.type"] for span in failed} == {"KeyboardInterrupt"}
    assert assert_one_tree(traced.spans).failed
    with dspy.context(lm=InterruptedLM()):
        assert dspy.settings.lm("again") == ["fine"]
    assert traced.spans[-1].parent is None  # nothing stayed current
