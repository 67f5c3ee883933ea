# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""An LM in this process that answers any DSPy prompt, always in the same way.

For what makes many calls and must come out equal twice: evaluations and optimizers.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import dspy

from tests.support.dspy_prompts import answer_dspy_prompt
from tests.support.openai_messages import Request

_ANSWER = re.compile(r"(\[\[ ## answer ## \]\]\n)[^\n]*")


class PromptLM(dspy.BaseLM):
    """Fills the fields that a prompt asks for; ``answer`` is chosen by a hash of the prompt.

    Args:
        answers: What to choose from.
    """

    def __init__(self, answers: Sequence[str] = ("a", "b"), **kwargs: Any) -> None:
        super().__init__(model="prompt-lm", model_type="chat", cache=False, **kwargs)
        self.answers = tuple(answers)
        self.calls: list[str] = []
        """The prompts, in the order in which they came."""
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: Any) -> PromptLM:
        return self  # a lock cannot be copied, and every call is to be counted in one place

    def copy(self, **kwargs: Any) -> PromptLM:
        return self

    def dump_state(self) -> dict[str, Any]:
        return {"model": self.model}  # required of an LM, and not inherited, before 3.1

    def launch(self, launch_kwargs: Any = None) -> None:
        """Nothing to launch; BetterTogether asks every LM for it."""

    def kill(self, launch_kwargs: Any = None) -> None:
        """Nothing to kill."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        messages = messages or [{"role": "user", "content": prompt}]
        text = "\n".join(str(message["content"]) for message in messages)
        with self._lock:
            self.calls.append(text)
        body = {"model": "prompt-lm", "messages": messages, **kwargs}
        replies = [self._reply(body, text, choice) for choice in range(kwargs.get("n") or 1)]
        return SimpleNamespace(
            id=f"prompt-{hashlib.sha256(text.encode()).hexdigest()[:8]}",
            model="prompt-lm",
            choices=[_choice(reply) for reply in replies],
            usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
        )

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self.forward(prompt, messages, **kwargs)

    def _reply(self, body: dict[str, Any], text: str, choice: int) -> str:
        request = Request(path="/v1/chat/completions", headers={}, json=body, time=0.0)
        reply = answer_dspy_prompt(request).content or ""
        digest = hashlib.sha256(f"{choice} {text}".encode()).digest()
        answer = self.answers[digest[0] % len(self.answers)]
        return _ANSWER.sub(rf"\g<1>{answer}", reply)


def _choice(text: str) -> Any:
    message = SimpleNamespace(role="assistant", content=text, tool_calls=None)
    return SimpleNamespace(index=0, finish_reason="stop", message=message, logprobs=None)
