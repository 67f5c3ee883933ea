# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A canary in every place where a secret can be: in no span, event, status or log line of ours.

And without content, a canary in every place where the program's data can be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import dspy
import pydantic
import pytest

from opentelemetry.instrumentation.dspy._content.redaction import KnownSecrets
from tests.support.fake_openai import FakeOpenAI
from tests.support.faults import Status
from tests.support.lms import EchoLM, served
from tests.support.prompt_lm import PromptLM
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

# It looks like nothing in particular, so only its value can give it away.
CANARY = "correct-horse-battery"
QA = "question -> answer"
MODES = pytest.mark.parametrize("mode", ["sync", "async"])


@pytest.fixture(autouse=True)
def our_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever a test does, none of our log lines has the canary, on any level."""
    with caplog.at_level(logging.DEBUG, logger="opentelemetry"):
        yield
    formatter = logging.Formatter("%(message)s")
    ours = [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert CANARY not in "\n".join(formatter.format(record) for record in ours)


async def ask(mode: str, lm: Any, **options: Any) -> Any:
    predict = dspy.Predict(QA)
    with dspy.context(lm=lm):
        if mode == "sync":
            return predict(question="?", **options)
        return await predict.acall(question="?", **options)


def assert_hidden(traced: Traced, *needed: str) -> None:
    """No canary in what was recorded, which must have something, and these texts, in it."""
    recorded = everything_in(traced.spans)
    assert traced.spans
    assert CANARY not in recorded
    for text in needed:
        assert text in recorded


# --- secrets that a call is made with ---------------------------------------------------------

IN_THE_LM: list[dict[str, Any]] = [
    {"api_key": CANARY},
    {"headers": {"Authorization": f"Bearer {CANARY}"}},
    {"extra_headers": {"X-Gateway-Key": CANARY}},
    {"default_headers": {"x-tenant": CANARY}},
    {"aws_secret_access_key": CANARY},
    {"azure_ad_token": CANARY},
    {"vertex_credentials": {"private_key": CANARY}},
    {"extra_body": {"provider": {"api_key": CANARY}}},
    {"api_base": f"https://user:{CANARY}@gateway.test/v1"},
    {"base_url": f"https://gateway.test/v1?api-key={CANARY}"},
    {"proxy": f"http://user:{CANARY}@proxy.test"},
]


@pytest.mark.parametrize("options", IN_THE_LM, ids=lambda options: next(iter(options)))
@MODES
async def test_in_the_lm(traced: Traced, mode: str, options: dict[str, Any]) -> None:
    await ask(mode, PromptLM(temperature=0.5, **options))
    assert_hidden(traced, "gen_ai.request.temperature")


@pytest.mark.parametrize("options", IN_THE_LM, ids=lambda options: next(iter(options)))
@MODES
async def test_in_the_options_of_a_call(traced: Traced, mode: str, options: dict[str, Any]) -> None:
    await ask(mode, PromptLM(), config={"temperature": 0.5, **options})
    assert_hidden(traced, "gen_ai.request.temperature")


@pytest.mark.parametrize("options", IN_THE_LM, ids=lambda options: next(iter(options)))
def test_in_the_options_of_a_predictor(traced: Traced, options: dict[str, Any]) -> None:
    with dspy.context(lm=PromptLM()):
        dspy.Predict(QA, temperature=0.5, **options)(question="?")
    assert_hidden(traced, "gen_ai.request.temperature")


@MODES
async def test_in_a_direct_call(traced: Traced, mode: str) -> None:
    lm, options = PromptLM(), {"api_key": CANARY, "extra_headers": {"authorization": CANARY}}
    lm("hello", **options) if mode == "sync" else await lm.acall("hello", **options)
    assert_hidden(traced, "hello")


def test_an_lm_given_with_the_call(traced: Traced) -> None:
    dspy.Predict(QA)(question="?", lm=PromptLM(api_key=CANARY))
    assert_hidden(traced, "PromptLM")


def test_a_secret_of_pydantics(traced: Traced) -> None:
    key = pydantic.SecretStr(CANARY)
    lm = Failing(f"the key {CANARY} is not known", api_key=key)
    with pytest.raises(PermissionError):
        lm("hello")
    assert_hidden(traced, "the key [REDACTED] is not known")


def test_arguments_of_a_tool(traced: Traced) -> None:
    def login(user: str, password: str, access_token: str, options: dict[str, Any]) -> str:
        return f"{user} is in"

    secrets = {"password": CANARY, "access_token": CANARY, "options": {"client_secret": CANARY}}
    dspy.Tool(login)(user="ada", **secrets)
    assert_hidden(traced, "ada is in")


def test_the_schema_of_a_parameter_is_no_secret(traced: Traced) -> None:
    """What tells how to call a tool stays whole, whatever its parameters are called."""

    def login(user: str, password: str = CANARY, token: str | None = None) -> str:
        return f"{user} is in"

    tool = dspy.Tool(login)
    tool(user="ada")
    lm = PromptLM()
    lm("hello", tools=[tool.format_as_litellm_function_call()])
    recorded = traced.content("execute_tool login", "dspy.tool.schema")
    (definition,) = traced.content("chat prompt-lm", "gen_ai.tool.definitions")
    for schema in (recorded, definition["parameters"]):
        assert schema["properties"]["password"] == {"type": "string"}
        assert schema["properties"]["token"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert_hidden(traced, "ada is in")


@pytest.mark.parametrize(
    "secret",
    [
        {"type": CANARY},
        {"type": ["string", CANARY]},
        {"type": "string", "value": CANARY, CANARY: 1},
        {"anyOf": [CANARY, {"type": "null", "default": CANARY}, {"const": CANARY}]},
        {"anyOf": CANARY},
    ],
)
def test_what_only_looks_like_a_schema(traced: Traced, secret: Any) -> None:
    dspy.Tool(lambda **given: "done", name="take")(password=secret)
    assert_hidden(traced, "done")


def test_the_default_of_a_field(traced: Traced) -> None:
    class Login(dspy.Signature):
        password: str = dspy.InputField(default=CANARY)
        user: str = dspy.InputField(default="ada")
        answer: str = dspy.OutputField()

    with dspy.context(lm=PromptLM()):
        dspy.Predict(Login)(user="ada", password="given")
    fields = traced.content("invoke_workflow Predict", "dspy.signature.fields")
    assert [field.get("default") for field in fields] == ["[REDACTED]", "ada", None]
    assert_hidden(traced)


# --- secrets that an error repeats ------------------------------------------------------------


class Failing(EchoLM):
    """Raises what a provider would say of the credentials it was sent."""

    def __init__(self, message: str, **options: Any) -> None:
        super().__init__(**options)
        self.message = message

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise PermissionError(self.message)

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        raise PermissionError(self.message)


ECHOED = [options for options in IN_THE_LM if not {"extra_body", "proxy"} & set(options)]


@pytest.mark.parametrize("options", ECHOED, ids=lambda options: next(iter(options)))
@MODES
async def test_an_error_that_repeats_what_the_lm_was_made_with(
    traced: Traced, mode: str, options: dict[str, Any]
) -> None:
    if "vertex_credentials" in options:
        options = {"vertex_credentials": CANARY}
    with pytest.raises(PermissionError, match=CANARY):
        await ask(mode, Failing(f"{CANARY} is refused", **options))
    assert_hidden(traced, "[REDACTED] is refused", "PermissionError")


@MODES
async def test_an_error_that_repeats_what_the_call_was_made_with(traced: Traced, mode: str) -> None:
    with pytest.raises(PermissionError, match=CANARY):
        await ask(mode, Failing(f"{CANARY} is refused"), config={"api_key": CANARY})
    assert_hidden(traced, "[REDACTED] is refused")


@MODES
async def test_a_provider_that_repeats_the_key(
    traced: Traced, server: FakeOpenAI, mode: str
) -> None:
    server.fail_with(*[Status(401, "Your key {api_key} is wrong.")] * 4)
    with pytest.raises(Exception, match=CANARY):
        await ask(mode, served(server, api_key=CANARY, num_retries=0))
    assert_hidden(traced, "is wrong", "chat gpt-4o-mini")


@MODES
async def test_a_provider_that_repeats_a_key_of_the_environment(
    traced: Traced, server: FakeOpenAI, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    server.fail_with(*[Status(401, "Your key {api_key} is wrong.")] * 4)
    with pytest.raises(Exception, match=CANARY):
        lm = dspy.LM("openai/gpt-4o-mini", api_base=server.base_url, cache=False, num_retries=0)
        await ask(mode, lm)
    assert_hidden(traced, "is wrong")


def test_other_secrets_of_the_environment(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", CANARY)

    class Program(dspy.Module):
        def forward(self) -> None:
            raise ConnectionError(f"cannot log in with {CANARY}")

    with pytest.raises(ConnectionError):
        Program()()
    assert_hidden(traced, "cannot log in with [REDACTED]")


def test_the_working_directory_is_no_secret(
    traced: Traced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells keep it in PWD, which is named like a password."""
    monkeypatch.setenv("PWD", "/srv/the-program")
    monkeypatch.setenv("OLDPWD", "/srv/the-former")

    class Program(dspy.Module):
        def forward(self) -> None:
            raise FileNotFoundError("/srv/the-program/data.csv, not /srv/the-former/data.csv")

    with pytest.raises(FileNotFoundError):
        Program()()
    (event,) = traced.span("invoke_workflow Program").events
    message = dict(event.attributes or {})["exception.message"]
    assert message == "/srv/the-program/data.csv, not /srv/the-former/data.csv"


def test_a_password_in_the_address_of_an_lm(traced: Traced, server: FakeOpenAI) -> None:
    address = server.base_url.replace("://", f"://user:{CANARY}@")
    server.fail_with(*[Status(500, "no")] * 4)
    with pytest.raises(Exception):  # noqa: B017 - which one differs from release to release
        served(server, api_base=address, num_retries=0)("hello")
    assert_hidden(traced)


def test_a_secret_that_an_error_carried_into_a_prompt(traced: Traced) -> None:
    """As in ReAct, which shows the model what went wrong."""
    key = CANARY

    class Program(dspy.Module):
        def forward(self, question: str) -> Any:
            try:
                Failing(f"{key} is refused", api_key=key)("hello")
            except PermissionError as error:
                problem = str(error)
            return dspy.Predict("question, problem -> answer")(question="?", problem=problem)

    with dspy.context(lm=PromptLM()):
        Program()(question="?")
    assert_hidden(traced, "[REDACTED] is refused", "problem")


def test_a_long_secret_at_the_cut_of_a_message(traced: Traced) -> None:
    key = CANARY * 20
    for before in range(1_900, 2_010, 7):
        with pytest.raises(PermissionError):
            Failing("x" * before + key, api_key=key)("hello")
    assert_hidden(traced)


def test_a_placeholder_is_no_secret(traced: Traced) -> None:
    with pytest.raises(PermissionError):
        Failing("this is a test of none", api_key="test")("hello")
    assert "this is a test of none" in everything_in(traced.spans)


def test_many_keys() -> None:
    """A process that serves many tenants knows the latest, and does not grow."""
    secrets = KnownSecrets()
    for number in range(5_000):
        secrets.learn("api_key", f"tenant-key-{number}")
    assert secrets.hide_all("tenant-key-4999!") == "[REDACTED]!"
    assert len(secrets._known) < 2_000


def test_the_longer_of_two_secrets_goes_first() -> None:
    secrets = KnownSecrets()
    secrets.learn("headers", {"Authorization": "Token abcdefgh"})
    assert secrets.hide_all("sent 'Token abcdefgh' and 'abcdefgh'") == (
        "sent '[REDACTED]' and '[REDACTED]'"
    )


@pytest.mark.parametrize("odd", [b"bytes", 5, ["x"], {"a": 1}, object()])
def test_what_is_no_secret_text(odd: Any) -> None:
    secrets = KnownSecrets()
    secrets.learn("api_key", odd)
    assert secrets.hide_all("text") == "text"


# --- no content -------------------------------------------------------------------------------


class Canaries(dspy.Signature):
    __doc__ = f"Instructions with {CANARY}."

    question: str = dspy.InputField(desc=f"described with {CANARY}")
    answer: str = dspy.OutputField(desc=f"described with {CANARY}")


class Everything(dspy.Module):
    """The canary as input, demo, instruction, description, document, tool result and error."""

    def __init__(self) -> None:
        super().__init__()
        self.generate = dspy.Predict(Canaries, user=CANARY)
        self.generate.demos = [dspy.Example(question=CANARY, answer=CANARY)]
        self.tool = dspy.Tool(self.look_up, name="look_up", desc="Looks it up.")
        self.judge = dspy.BestOfN(self.generate, N=2, reward_fn=lambda *_: 0.5, threshold=1)
        self.agent = dspy.ReAct(QA, tools=[self.tool], max_iters=2)

    def look_up(self, query: str) -> str:
        raise LookupError(f"no {query}")

    def forward(self, question: str) -> Any:
        try:
            self.tool(query=question)
        except LookupError:
            self.generate(question=question, other=CANARY)
        self.judge(question=question)
        self.agent(question=question)
        raise ValueError(f"about {question}")


@pytest.mark.parametrize("content", [False, "EVENT_ONLY"])
def test_without_content_nothing_of_the_programs_data(trace_with: TraceWith, content: Any) -> None:
    traced = trace_with(capture_content=content)
    with dspy.context(lm=PromptLM(answers=[CANARY])), pytest.raises(ValueError, match=CANARY):
        Everything()(question=CANARY)
    assert_hidden(traced, "invoke_agent ReAct", "dspy.attempt.index", "dspy.program.hash")


class Uncountable(list[Any]):
    def __bool__(self) -> bool:
        raise RuntimeError(f"cannot use {CANARY}")


def test_a_failure_of_ours_repeats_no_data(traced: Traced, telemetry_log: TelemetryLog) -> None:
    """Whatever goes wrong while a value is read, its message may be made of that value."""
    predict = dspy.Predict(QA)
    predict.demos = Uncountable()
    with dspy.context(lm=PromptLM()):
        assert predict(question="?").answer in ("a", "b")
    (warning,) = telemetry_log.take()
    assert "RuntimeError raised at" in warning
    assert CANARY not in warning
    assert_hidden(traced)
