# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""``TypeSafe``, a client that decides: not a ``BaseLM``, and an LM call all the same."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import dspy
import pytest
from opentelemetry.trace import SpanKind

from tests.support.lms import DSPY, Version
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = [
    pytest.mark.surface("TypeSafe"),
    pytest.mark.skipif(Version("3.4") > DSPY, reason="no TypeSafe in this dspy"),
]

MODES = pytest.mark.parametrize("mode", ["sync", "async"])
CHAT = "chat jev-test"
CANARY = "typesafe-canary-key"
STATE = {"instructions": "Decide.", "inputs": {"text": "canary text"}}
QUESTIONS = {"urgent": {"question": "Is it?"}}
ANSWERS = {"urgent": {"noul": 0.75}}


class FakeClient:
    """The client of ``typesafe_sdk``, sync and async, without a network."""

    error: ClassVar[Exception | None] = None
    calls: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **options: Any) -> None:
        self.options = options

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None: ...

    def system_one(self, *, state: Any, questions: Any) -> Any:
        FakeClient.calls.append({"state": state, "questions": questions})
        if FakeClient.error is not None:
            raise FakeClient.error
        return SimpleNamespace(
            model="jev-test-2",
            usage=SimpleNamespace(input_tokens=11, output_tokens=2),
            answers={"urgent": SimpleNamespace(noul=0.75)},
        )


class FakeAsyncClient(FakeClient):
    async def __aenter__(self) -> FakeAsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def system_one(self, *, state: Any, questions: Any) -> Any:
        return FakeClient.system_one(self, state=state, questions=questions)


@pytest.fixture(autouse=True)
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("typesafe_sdk")
    module.TypeSafeClient = FakeClient  # type: ignore[attr-defined]
    module.AsyncTypeSafeClient = FakeAsyncClient  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "typesafe_sdk", module)
    FakeClient.error, FakeClient.calls = None, []
    yield


def client(**options: Any) -> Any:
    from dspy.clients.typesafe import TypeSafe

    defaults = {"model": "jev-test", "api_key": CANARY, "base_url": "https://u:pw@typesafe.test"}
    return TypeSafe(**{**defaults, "cache": False, **options})


async def ask(mode: str, typesafe: Any, **given: Any) -> Any:
    given = given or {"state": STATE, "questions": QUESTIONS}
    return typesafe(**given) if mode == "sync" else await typesafe.acall(**given)


@MODES
async def test_every_fact_of_a_call(traced: Traced, mode: str) -> None:
    assert await ask(mode, client()) == ANSWERS
    assert traced.span(CHAT).kind is SpanKind.CLIENT
    attributes = traced.attributes(CHAT)
    (sent,) = traced.content(CHAT, "gen_ai.input.messages")
    (answered,) = traced.content(CHAT, "gen_ai.output.messages")
    del attributes["gen_ai.input.messages"], attributes["gen_ai.output.messages"]
    assert attributes == {
        "dspy.operation": "lm",
        "dspy.lm.type": "TypeSafe",
        "dspy.lm.cache.enabled": False,
        "dspy.lm.cache.hit": False,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "typesafe",
        "gen_ai.request.model": "jev-test",
        "gen_ai.response.model": "jev-test-2",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 2,
        "server.address": "typesafe.test",
        "server.port": 443,
    }
    assert sent["role"] == "user"
    assert '"canary text"' in sent["parts"][0]["content"]
    assert answered == {
        "role": "assistant",
        "parts": [{"type": "text", "content": '{"urgent":{"noul":0.75}}'}],
        "finish_reason": "stop",
    }


@MODES
async def test_an_answer_from_the_cache(traced: Traced, mode: str) -> None:
    typesafe = client(cache=True, base_url=f"https://{mode}.typesafe.test")
    await ask(mode, typesafe)
    traced.clear()
    assert await ask(mode, typesafe) == ANSWERS
    attributes = traced.attributes(CHAT)
    assert attributes["dspy.lm.cache.hit"] is True
    assert attributes["dspy.lm.cache.enabled"] is True
    assert attributes["dspy.lm.cache.tier"] == "memory"
    assert not [name for name in attributes if "usage" in name]
    assert len(FakeClient.calls) == 1


@MODES
async def test_an_error(traced: Traced, mode: str) -> None:
    FakeClient.error = RuntimeError(f"bad key {CANARY} for u:pw@typesafe.test")
    with pytest.raises(RuntimeError, match=CANARY):
        await ask(mode, client())
    assert traced.attributes(CHAT)["error.type"] == "RuntimeError"
    assert CANARY not in everything_in(traced.spans)
    assert "bad key" in everything_in(traced.spans)


@MODES
async def test_without_content(trace_with: TraceWith, mode: str) -> None:
    traced = trace_with(capture_content=False)
    await ask(mode, client())
    assert "canary" not in everything_in(traced.spans)
    assert traced.attributes(CHAT)["gen_ai.usage.input_tokens"] == 11


def test_positional_arguments(traced: Traced) -> None:
    assert client()(STATE, QUESTIONS) == ANSWERS
    (sent,) = traced.content(CHAT, "gen_ai.input.messages")
    assert '"questions":{"urgent"' in sent["parts"][0]["content"]


def test_callbacks_of_the_program_run_inside_of_the_span(traced: Traced) -> None:
    from dspy.utils.callback import BaseCallback
    from opentelemetry import trace

    class Watching(BaseCallback):
        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            seen.append(trace.get_current_span().get_span_context().span_id)

    seen: list[int] = []
    client(callbacks=[Watching()])(STATE, QUESTIONS)
    context = traced.span(CHAT).context
    assert context is not None
    assert seen == [context.span_id]


@MODES
async def test_below_a_predictor(traced: Traced, mode: str) -> None:
    from dspy.adapters.types.decision import Noul

    fields = {
        "text": (str, dspy.InputField()),
        "urgent": (Noul, dspy.OutputField(desc="Is it urgent?")),
    }
    predict = dspy.Predict(dspy.Signature(fields, "Sort messages."))
    with dspy.context(lm=client()):
        predict(text="t") if mode == "sync" else await predict.acall(text="t")
    assert traced.tree("dspy.lm.call.count") == (
        "invoke_workflow Predict text -> urgent {dspy.lm.call.count=1}\n"
        "└─ DecisionAdapter\n   └─ chat jev-test"
    )
