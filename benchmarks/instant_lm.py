# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A language model that gives scripted answers, at once or after a set time, without a network."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import dspy

MODEL = "openai/gpt-4o-mini"
INPUT_TOKENS, OUTPUT_TOKENS = 120, 30


def instant_lm(answers: Sequence[Mapping[str, Any]], delay: float = 0.0) -> Any:
    """Make an LM that gives these answers in turn, again and again, to each thread separately.

    Args:
        answers: The output fields of each call of a program.
        delay: Seconds that each call takes.
    """
    script = _Script([_chat_text(answer) for answer in answers], delay)
    try:
        from dspy.lm15 import Response
    except ImportError:  # before dspy 3.4
        return _ScriptedLM(script)
    assert Response is not None
    return dspy.LM(MODEL, engine=_Engine(script), cache=False)


def _chat_text(answer: Mapping[str, Any]) -> str:
    """An answer as ChatAdapter reads it."""
    fields = [f"[[ ## {name} ## ]]\n{_text(value)}" for name, value in answer.items()]
    return "\n\n".join([*fields, "[[ ## completed ## ]]"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _Script(threading.local):
    def __init__(self, texts: Sequence[str], delay: float) -> None:
        self._texts: Iterator[str] = itertools.cycle(texts)
        self._delay = delay

    def next(self) -> str:
        if self._delay:
            time.sleep(self._delay)
        return next(self._texts)


class _Engine:
    """An engine as dspy 3.4 takes it."""

    def __init__(self, script: _Script) -> None:
        from dspy import lm15

        self._script = script
        self._lm15: Any = lm15
        self._usage = lm15.Usage(input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS)

    def complete(self, request: Any) -> Any:
        return self._lm15.Response(
            id="response",
            model="gpt-4o-mini-2024-07-18",
            message=self._lm15.Message.assistant(self._script.next()),
            finish_reason="stop",
            usage=self._usage,
        )

    def close(self) -> None:
        """Nothing is open."""


class _ScriptedLM(dspy.BaseLM):
    def __init__(self, script: _Script) -> None:
        super().__init__(MODEL, cache=False)
        self._script = script

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        message = SimpleNamespace(content=self._script.next(), tool_calls=None)
        return SimpleNamespace(
            id="response",
            model="gpt-4o-mini-2024-07-18",
            choices=[SimpleNamespace(message=message, finish_reason="stop")],
            usage={
                "prompt_tokens": INPUT_TOKENS,
                "completion_tokens": OUTPUT_TOKENS,
                "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
            },
        )
