# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Secrets that an agent hands to its tools: they pass through the texts of its model, too."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy._content.tool_arguments import SecretArguments
from tests.support.dspy_prompts import chat_text
from tests.support.fake_openai import FakeOpenAI, Reply, ToolCall
from tests.support.lms import served
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TraceWith

CANARY = "correct-horse-battery"
ARGUMENTS = {"user": "ada", "password": CANARY}
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


def login(user: str, password: str) -> str:
    return f"{user} is in"


def refuse(user: str, password: str) -> str:
    raise PermissionError(f"{password} is wrong")


async def ask(mode: str, agent: Any) -> None:
    try:
        agent(question="?") if mode == "sync" else await agent.acall(question="?")
    except Exception:
        # Some agents give up, since the server has no more to say.
        assert agent


@pytest.mark.parametrize("tool", [login, refuse])
@MODES
async def test_an_agent_that_works_with_text(
    traced: Traced, server: FakeOpenAI, tool: Any, mode: str
) -> None:
    step = {"next_thought": "t", "next_tool_name": tool.__name__, "next_tool_args": ARGUMENTS}
    server.reply_with(chat_text(**step))
    with dspy.context(lm=served(server)):
        await ask(mode, dspy.ReAct("question -> answer", tools=[tool], max_iters=2))
    assert CANARY in json.dumps([request.json for request in server.requests])
    recorded = everything_in(traced.spans)
    assert CANARY not in recorded
    assert f"execute_tool {tool.__name__}" in traced.names()
    assert "ada" in recorded
    # What the agent hands to the model again, and what the model said.
    assert recorded.count("[REDACTED]") > 5


@pytest.mark.skipif(not hasattr(dspy, "ReActV2"), reason="ReActV2 came with dspy 3.3")
@MODES
async def test_an_agent_that_works_with_tool_calls(
    traced: Traced, server: FakeOpenAI, mode: str
) -> None:
    if mode == "async" and not hasattr(dspy.ReActV2, "aforward"):
        pytest.skip("ReActV2 is asynchronous from dspy 3.4 on")
    server.reply_with(Reply(None, tool_calls=(ToolCall("login", ARGUMENTS),)))
    with dspy.context(lm=served(server)):
        await ask(mode, dspy.ReActV2("question -> answer", tools=[login], max_iters=2))
    assert "execute_tool login" in traced.names()
    assert CANARY not in everything_in(traced.spans)


def test_a_predictor_that_asks_for_tool_calls(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply(None, tool_calls=(ToolCall("login", ARGUMENTS, id="c-1"),)))
    lm = served(server)
    lm("log in", tools=[dspy.Tool(login).format_as_litellm_function_call()])
    (answer,) = traced.content("chat gpt-4o-mini", "gen_ai.output.messages")
    (part,) = [part for part in answer["parts"] if part["type"] == "tool_call"]
    assert part == {
        "type": "tool_call",
        "id": "c-1",
        "name": "login",
        "arguments": {"user": "ada", "password": "[REDACTED]"},
    }
    assert CANARY not in everything_in(traced.spans)


def nested(value: Any, times: int) -> str:
    for _ in range(times):
        value = {"text": json.dumps(value)}
    return json.dumps(value)


def told(text: str, times: int) -> Any:
    value = json.loads(text)
    for _ in range(times):
        value = json.loads(value["text"])
    return value


@pytest.fixture
def arguments() -> SecretArguments:
    known = SecretArguments()
    known.learn(["user", "db_password", "pin_token"])
    return known


@pytest.mark.parametrize("secret", [CANARY, f'{CANARY}"s \\ own', "", "\n", '"', "\\", 1234])
@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_json_in_json(arguments: SecretArguments, secret: Any, times: int) -> None:
    given = {"a": ["b"], "db_password": secret, "user": "ada", "pin_token": secret, "z": "end"}
    shown = {**given, "db_password": "[REDACTED]", "pin_token": "[REDACTED]"}
    assert told(arguments.hide(nested(given, times)), times) == shown


@pytest.mark.parametrize("times", [1, 2, 3])
def test_json_that_was_cut_stays_json_outside(arguments: SecretArguments, times: int) -> None:
    inner = nested({"db_password": CANARY, "user": "ada"}, times - 1)
    for end in range(len(inner)):
        text = json.dumps([{"text": inner[:end] + "[... more]"}, {"text": inner}, "it's"])
        hidden = arguments.hide(text)
        assert len(json.loads(hidden)) == 3
        assert "horse" not in hidden


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{{'db_password': '{CANARY}', 'b': 1}}", "{'db_password': '[REDACTED]', 'b': 1}"),
        (f'{{"db_password" : "{CANARY}"}}', '{"db_password" : "[REDACTED]"}'),
        (f"<db_password>{CANARY}</db_password>", "<db_password>[REDACTED]</db_password>"),
        (f'{{"client_secret": "{CANARY}"}}', '{"client_secret": "[REDACTED]"}'),
        ('{"db_password": {"type": "string"}}', '{"db_password": {"type": "string"}}'),
        ('["user", "db_password"]', '["user", "db_password"]'),
        ('the "db_password": ask me', 'the "db_password": ask me'),
    ],
)
def test_other_texts(arguments: SecretArguments, text: str, shown: str) -> None:
    assert arguments.hide(text) == shown


def test_only_names_of_secrets_are_learned() -> None:
    known = SecretArguments()
    known.learn(["user", "query"])
    assert not known.known
    assert known.hide('{"password": "x"}') == '{"password": "x"}'


@pytest.mark.parametrize(
    "text", ["\\" * 5_000, 'password": "' * 2_000, "a\\" * 5_000 + '"', "<password>"]
)
@pytest.mark.parametrize("start", ["", '"password": "', "password"])
def test_no_text_is_too_odd(arguments: SecretArguments, start: str, text: str) -> None:
    assert CANARY not in arguments.hide(f'{start}{text}{{"password": "{CANARY}"}}')


@pytest.mark.parametrize("length", range(76, 100))
def test_what_stands_in_for_a_secret_keeps_to_the_limit(trace_with: TraceWith, length: int) -> None:
    traced = trace_with(max_content_length=128)

    def note(text: str, token: str) -> str:
        return text

    text = json.dumps({"token": "x", "more": "y" * length})
    dspy.Tool(note)(text=text, token="x")
    result = traced.attributes("execute_tool note")["gen_ai.tool.call.result"]
    assert len(result) <= 128
    assert "[REDACTED]" in json.loads(result)
