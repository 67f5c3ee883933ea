# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A script for test_pickling: classes of ``__main__``, which cloudpickle takes by value.

Prints one line for each object, with what came of copying it, and writes the pickle of some bound
methods to the file of the second argument. ``traced`` as first argument instruments DSPy in the
middle, so that one class is defined before that and another one after it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
from dspy.utils import DummyLM


class EarlyLM(DummyLM):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [f"early {args[0]}"]


class EarlyAdapter(dspy.ChatAdapter):
    def format(self, *args: Any, **kwargs: Any) -> Any:
        return [{"role": "user", "content": "early"}]


class EarlyProgram(dspy.Module):
    def forward(self, question: str) -> str:
        return f"early {question}"


if sys.argv[1] == "traced":
    from opentelemetry.sdk.trace import TracerProvider

    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    # With a real provider, whose locks cannot be pickled.
    DSPyInstrumentor().instrument(tracer_provider=TracerProvider())


class LateLM(DummyLM):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return [f"late {args[0]}"]


class LateAdapter(dspy.ChatAdapter):
    def format(self, *args: Any, **kwargs: Any) -> Any:
        return [{"role": "user", "content": "late"}]


class LateProgram(EarlyProgram):
    def forward(self, question: str) -> str:
        return super().forward(question).replace("early", "late")


def text_of(adapter: Any) -> str:
    return adapter.format(dspy.Signature("a -> b"), [], {"a": "x"})[0]["content"]


def use(thing: Any) -> Any:
    if isinstance(thing, dspy.Adapter):
        return text_of(thing)
    return thing("x")


def outcome(thing: Any) -> str:
    try:
        return str(use(cloudpickle.loads(cloudpickle.dumps(thing))))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:80]


class Holder:
    """Has something of the program to call."""

    def __init__(self, method: Any) -> None:
        self.method = method

    def __call__(self, text: str) -> Any:
        return self.method(text)


class AsyncLM(DummyLM):
    def acall(self, *args: Any, **kwargs: Any) -> Any:
        return f"async {args[0]}"


METHODS = {
    "EarlyLM.__call__": EarlyLM([]).__call__,
    "LateLM.__call__": LateLM([]).__call__,
    "AsyncLM.acall": AsyncLM([]).acall,
    "EarlyProgram.__call__": EarlyProgram().__call__,
}

for thing in (
    EarlyLM([]),
    LateLM([]),
    EarlyAdapter(),
    LateAdapter(),
    EarlyProgram(),
    LateProgram(),
    Holder(EarlyProgram()),
    Holder(EarlyProgram().__call__),
    Holder(EarlyLM([])),
    Holder(EarlyLM([]).__call__),
    Holder(LateLM([]).__call__),
):
    print(type(thing).__name__, outcome(thing))

Path(sys.argv[2]).write_bytes(cloudpickle.dumps(METHODS))
