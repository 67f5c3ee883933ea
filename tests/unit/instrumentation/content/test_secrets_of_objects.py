# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Keys that the program's own classes keep in an attribute, and that an error repeats."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy._content.redaction import KnownSecrets
from tests.support.lms import EchoLM
from tests.support.traced import Traced, everything_in

CANARY = "correct-horse-battery"
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


def refuse(key: str) -> Any:
    raise PermissionError(f"{key} is refused")


class OwnLM(EchoLM):
    def __init__(self) -> None:
        super().__init__()
        self.api_key = CANARY

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return refuse(self.api_key)

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return refuse(self.api_key)


class OwnRetriever(dspy.Retrieve):
    def __init__(self) -> None:
        super().__init__(k=1)
        self.headers = {"X-Tenant": CANARY}

    def forward(self, query: str, k: int | None = None) -> Any:
        return refuse(self.headers["X-Tenant"])


class OwnProgram(dspy.Module):
    """Holds the key, and hands it to what fails."""

    def __init__(self) -> None:
        super().__init__()
        self.service_url = f"https://user:{CANARY}@service.test"
        self.db_password = CANARY
        self.tool = dspy.Tool(lambda: refuse(self.db_password), name="connect")

    def forward(self) -> Any:
        return self.tool()

    async def aforward(self) -> Any:
        return await self.tool.acall()


def assert_hidden(traced: Traced) -> None:
    recorded = everything_in(traced.spans)
    assert CANARY not in recorded
    assert "[REDACTED] is refused" in recorded


@MODES
async def test_of_an_lm(traced: Traced, mode: str) -> None:
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=OwnLM()), pytest.raises(PermissionError, match=CANARY):
        if mode == "sync":
            predict(question="?")
        else:
            await predict.acall(question="?")
    assert_hidden(traced)


def test_of_a_retriever(traced: Traced) -> None:
    with pytest.raises(PermissionError, match=CANARY):
        OwnRetriever()("query")
    assert_hidden(traced)


@MODES
async def test_of_the_program_around_what_fails(traced: Traced, mode: str) -> None:
    program = OwnProgram()
    with pytest.raises(PermissionError, match=CANARY):
        program() if mode == "sync" else await program.acall()
    assert_hidden(traced)
    assert "ERROR(PermissionError)" in traced.tree()


@pytest.mark.parametrize(
    "key", ['quo"ted-horse', "back\\slashed-horse", "lines\nof-horse", "hörse-battery"]
)
@pytest.mark.parametrize("write", [str, json.dumps, lambda text: json.dumps(json.dumps(text))])
def test_a_key_that_json_writes_in_another_way(traced: Traced, key: str, write: Any) -> None:
    """Once it was seen in an error, it is hidden in content, too."""

    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.api_key = key
            self.tool = dspy.Tool(lambda: refuse(write(key)), name="connect")

        def forward(self) -> Any:
            try:
                return self.tool()
            except PermissionError as error:
                return {"problem": str(error)}

    assert write(key) in Program()()["problem"]
    (event,) = traced.span("execute_tool connect").events
    told = dict(event.attributes or {})
    assert "[REDACTED]" in told["exception.message"]
    for text in (told["exception.message"], told["exception.stacktrace"]):
        assert write(key) not in text
    shown = traced.content("invoke_workflow Program", "dspy.module.output")["problem"]
    assert shown in (
        "[REDACTED] is refused",
        '"[REDACTED]" is refused',
        '"\\"[REDACTED]\\"" is refused',
    )


class Slots:
    __slots__ = ("api_key",)


@pytest.mark.parametrize("instance", [Slots(), Slots, None, 1, lambda: None])
def test_what_has_no_attributes_or_odd_ones(instance: Any) -> None:
    secrets = KnownSecrets()
    secrets.learn_attributes(instance)
    assert secrets.hide_all("text") == "text"
