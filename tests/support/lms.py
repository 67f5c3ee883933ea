# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Language models for tests: what any supported DSPy release accepts as one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dspy
from dspy.utils import DummyLM
from packaging.version import Version

from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI

DSPY = Version(dspy.__version__)


def answers(*texts: str) -> DummyLM:
    """An LM that answers with these in turn, for signatures with the one output ``answer``."""
    return DummyLM([{"answer": text} for text in texts])


def answering(text: str = "blue", times: int = 50) -> DummyLM:
    """An LM that always has the same answer for the output ``answer``."""
    return answers(*[text] * times)


def completion(text: str, **more: Any) -> Any:
    """A provider's response as a custom LM returns it, with usage 3 + 2."""
    message = SimpleNamespace(content=text, tool_calls=None)
    facts = {
        "choices": [SimpleNamespace(message=message, finish_reason="stop")],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "model": "echo-2025",
        "id": "response-1",
    }
    return SimpleNamespace(**{**facts, **more})


BLUE = chat_text(answer="blue")


class EchoLM(dspy.BaseLM):
    """A custom LM in the way DSPy's documentation tells to write one: ``forward`` alone."""

    def __init__(self, reply: str | Callable[..., str] = BLUE, **kwargs: Any):
        super().__init__("echo", **{"cache": False, **kwargs})
        self.reply = reply

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        reply = self.reply
        return completion(reply if isinstance(reply, str) else reply(prompt, messages))

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return EchoLM.forward(self, prompt, messages, **kwargs)


class FailingLM(dspy.BaseLM):
    """A custom LM that raises."""

    def __init__(self, error: Callable[[], BaseException]):
        super().__init__("failing", cache=False)
        self.error = error

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise self.error()

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise self.error()


def served(server: FakeOpenAI, model: str = "openai/gpt-4o-mini", **options: Any) -> dspy.LM:
    """DSPy's own LM, talking to the fake server; uncached unless told otherwise."""
    defaults = {"api_base": server.base_url, "api_key": "sk-test-key-of-no-value", "cache": False}
    return dspy.LM(model, **{**defaults, **options})
