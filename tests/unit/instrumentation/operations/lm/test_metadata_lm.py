# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The request on an LM's span: its parameters, output type, retries, tools."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pydantic
import pytest

from tests.support.fake_openai import FakeOpenAI
from tests.support.faults import Status
from tests.support.lms import DSPY, EchoLM, Version, served
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

CHAT = "chat gpt-4o-mini"
# Since 3.4 DSPy retries itself; before, LiteLLM does, out of its sight.
RETRIES_ITSELF = Version("3.4") <= DSPY


async def call(lm: Any, mode: str, *args: Any, **kwargs: Any) -> Any:
    return lm(*args, **kwargs) if mode == "sync" else await lm.acall(*args, **kwargs)


class Answer(pydantic.BaseModel):
    text: str


# --- dspy.lm.parameters -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_parameters_without_a_name_in_the_conventions(traced: Traced, mode: str) -> None:
    lm = EchoLM(temperature=0.3, service_tier="flex", user="u-1")
    await call(lm, mode, "hello", logit_bias={"50256": -100}, user="u-2", max_tokens=9)
    attributes = traced.attributes("chat echo")
    parameters = json.loads(attributes["dspy.lm.parameters"])
    assert parameters == {"service_tier": "flex", "user": "u-2", "logit_bias": {"50256": -100}}
    assert attributes["gen_ai.request.temperature"] == 0.3
    assert attributes["gen_ai.request.max_tokens"] == 9


def test_no_parameters_no_attribute(traced: Traced) -> None:
    EchoLM(temperature=0.3)("hello", cache=False, rollout_id=3)
    attributes = traced.attributes("chat echo")
    assert "dspy.lm.parameters" not in attributes
    assert attributes["dspy.lm.rollout_id"] == 3


def test_parameters_are_content(trace_with: TraceWith) -> None:
    traced = trace_with(capture_content=False)
    EchoLM(temperature=0.3)("hello", prediction={"type": "content", "content": "canary"})
    attributes = traced.attributes("chat echo")
    assert "dspy.lm.parameters" not in attributes
    assert attributes["gen_ai.request.temperature"] == 0.3


def test_parameters_of_a_predictor(traced: Traced) -> None:
    with dspy.context(lm=EchoLM()):
        dspy.Predict("question -> answer", reasoning_effort="low")(
            question="?", config={"verbosity": "high"}
        )
    assert traced.content("chat echo", "dspy.lm.parameters") == {
        "reasoning_effort": "low",
        "verbosity": "high",
    }


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_parameter_that_cannot_be_shown(traced: Traced) -> None:
    EchoLM()("hello", odd=Odd(), fine=1)
    assert traced.content("chat echo", "dspy.lm.parameters") == {
        "odd": "[unreadable Odd]",
        "fine": 1,
    }


# --- gen_ai.output.type -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}, "json"),
        ({"type": "text"}, "text"),
        (Answer, "json"),
        (None, None),
    ],
)
def test_the_output_type(traced: Traced, response_format: Any, expected: str | None) -> None:
    EchoLM()("hello", response_format=response_format)
    assert traced.attributes("chat echo").get("gen_ai.output.type") == expected


def test_no_output_type_where_no_format_is_asked_for(traced: Traced) -> None:
    EchoLM()("hello")
    assert "gen_ai.output.type" not in traced.attributes("chat echo")


# --- retries ----------------------------------------------------------------------------------


@pytest.mark.skipif(not RETRIES_ITSELF, reason="LiteLLM retries")
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_retries_are_counted(traced: Traced, server: FakeOpenAI, mode: str) -> None:
    server.fail_with(Status(429, retry_after=0), Status(503, retry_after=0))
    await call(served(server, num_retries=4), mode, "hello")
    attributes = traced.attributes(CHAT)
    assert attributes["dspy.lm.retry.count"] == 2
    assert attributes["dspy.lm.retry.max"] == 4
    assert len(server.requests) == 3


@pytest.mark.skipif(not RETRIES_ITSELF, reason="LiteLLM retries")
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_retries_that_end_in_an_error(traced: Traced, server: FakeOpenAI, mode: str) -> None:
    server.fail_with(Status(429, retry_after=0), Status(429, retry_after=0))
    with pytest.raises(Exception, match=r"429|rate"):
        await call(served(server, num_retries=1), mode, "hello")
    attributes = traced.attributes(CHAT)
    assert attributes["dspy.lm.retry.count"] == 1
    assert attributes["dspy.lm.retry.max"] == 1


def test_no_retry_no_count(traced: Traced, server: FakeOpenAI) -> None:
    served(server)("hello")
    attributes = traced.attributes(CHAT)
    assert "dspy.lm.retry.count" not in attributes
    assert attributes["dspy.lm.retry.max"] == 3


def test_a_custom_lm_says_nothing_of_retries(traced: Traced) -> None:
    EchoLM()("hello")
    assert not [name for name in traced.attributes("chat echo") if "retry" in name]


# --- explicit requests ------------------------------------------------------------------------


@pytest.mark.skipif(Version("3.4") > DSPY, reason="the request type of 3.4")
@pytest.mark.parametrize("how", ["positional", "by keyword"])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_an_explicit_request(traced: Traced, server: FakeOpenAI, how: str, mode: str) -> None:
    from dspy import lm15

    weather = lm15.FunctionTool(name="weather", description="Tells it.")
    request = lm15.Request(
        model="openai/gpt-4o-mini",
        system="Be brief.",
        messages=(lm15.Message.user("hello"),),
        tools=(weather,),
        config=lm15.Config(temperature=0.5, max_tokens=7, stop=("END",), store=False),
    )
    lm = served(server, temperature=0.9)
    server.reply_with("hi")
    if how == "positional":
        await call(lm, mode, request)
    else:
        await call(lm, mode, request=request)
    attributes = traced.attributes(CHAT)
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.max_tokens"] == 7
    assert attributes["gen_ai.request.stop_sequences"] == ("END",)
    assert attributes["server.address"] == "127.0.0.1"
    assert json.loads(attributes["dspy.lm.parameters"]) == {"store": False}
    (tool,) = json.loads(attributes["gen_ai.tool.definitions"])
    assert (tool["name"], tool["description"]) == ("weather", "Tells it.")
    roles = [message["role"] for message in json.loads(attributes["gen_ai.input.messages"])]
    assert roles == ["user"]
    instructions = json.loads(attributes["gen_ai.system_instructions"])
    assert instructions == [{"type": "text", "content": "Be brief."}]
    (message,) = json.loads(attributes["gen_ai.output.messages"])
    assert message["parts"] == [{"type": "text", "content": "hi"}]


def test_what_openai_nests_in_a_tool_is_flat(traced: Traced) -> None:
    function = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object"}}
    EchoLM()("hello", tools=[{"type": "function", "function": function}, {"type": "web_search"}])
    assert traced.content("chat echo", "gen_ai.tool.definitions") == [
        {"type": "function", **function},
        {"type": "web_search", "name": "web_search"},
    ]
