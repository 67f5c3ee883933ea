# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What must not leave the process: secrets by their names and looks, and what a hook takes out."""

from __future__ import annotations

import dataclasses
from typing import Any

import dspy
import pydantic
import pytest

from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy._content.redaction import is_secret_key, redact_text
from opentelemetry.instrumentation.dspy._settings import Settings
from tests.support.lms import EchoLM, FailingLM
from tests.support.traced import Traced, everything_in
from tests.unit.instrumentation.conftest import TelemetryLog, TraceWith

CANARY = "canary-4711"
QA = "question -> answer"


@pytest.mark.parametrize(
    "name",
    [
        "api_key", "apiKey", "API_KEY", "OPENAI_API_KEY", "x-api-key", "apikey", "azure_api_key",
        "password", "db_password", "userPassword", "passwd", "pwd", "passphrase",
        "secret", "client_secret", "clientSecret", "aws_secret_access_key", "secret_key",
        "token", "access_token", "accessToken", "refresh_token", "auth_token", "id_token",
        "authorization", "Authorization", "bearer", "Set-Cookie", "cookie", "credentials",
        "private_key", "privateKey", "signing_key",
    ],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_key(name)


@pytest.mark.parametrize(
    "name",
    [
        "question", "answer", "key", "keys", "keyword", "monkey", "primary_key", "key_points",
        "max_tokens", "tokens", "token_count", "prompt_tokens", "tokenizer", "total_tokens",
        "secretary", "author", "authors", "passage", "passages", "context", "", "_", "42",
        "cookiecutter", "privateer", "bypass",
    ],
)  # fmt: skip
def test_names_of_no_secrets(name: str) -> None:
    assert not is_secret_key(name)


@dataclasses.dataclass
class Login:
    user: str
    password: str


class Account(pydantic.BaseModel):
    name: str
    api_key: str


@pytest.mark.parametrize(
    "value",
    [
        {"api_key": CANARY},
        {"deep": [{"headers": {"Authorization": f"Bearer {CANARY}"}}]},
        {"login": Login("u", CANARY)},
        {"account": Account(name="n", api_key=CANARY)},
        {"account": [Account(name="n", api_key=CANARY)]},
        {"example": dspy.Example(user="u", access_token=CANARY)},
        {"key": pydantic.SecretStr(CANARY)},
    ],
    ids=["top", "deep", "dataclass", "pydantic", "list", "example", "secret type"],
)
def test_secrets_inside_of_values(traced: Traced, value: dict[str, Any]) -> None:
    class Program(dspy.Module):
        def forward(self, **values: Any) -> Any:
            return values

    assert Program()(**value) == value
    assert CANARY not in everything_in(traced.spans)
    if "key" not in value:
        assert "[REDACTED]" in traced.attributes("invoke_workflow Program")["dspy.module.input"]


LOOKS_SECRET = [
    "sk-proj-abcdefghijklmnop1234",
    "sk-ant-api03-abcdefghijklmnop",
    "ghp_abcdefghijklmnopqrstuv123456",
    "github_pat_11ABCDEFG0abcdefghij",
    "glpat-abcdefghij0123456789",
    "xoxb-123456789012-abcdefghijkl",
    "hf_abcdefghijklmnopqrstuvwxyz",
    "gsk_abcdefghijklmnopqrstuvwxyz",
    "AKIAABCDEFGHIJKLMNOP",
    "AIzaSyABCDEFGHIJKLMNOPQRSTUVWXYZ0123456",
]


@pytest.mark.parametrize("secret", LOOKS_SECRET)
def test_keys_in_the_text_of_an_error(secret: str) -> None:
    for text in (f"bad key {secret}.", f"({secret})", f"'{secret}'", f"x={secret}\ny"):
        assert secret not in redact_text(text)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abcdefgh1234", "abcdefgh1234"),
        ("api_key=abcdef123456", "abcdef123456"),
        ("api key: 'abcdef123456'", "abcdef123456"),
        ('{"password": "hunter2hunter2"}', "hunter2hunter2"),
        ("token=abcdef123456&x=1", "abcdef123456"),
        ("postgres://user:hunter22@db:5432/x", "hunter22"),
        ("https://user:hunter22@host/path", "hunter22"),
    ],
)
def test_secrets_with_a_name_in_the_text_of_an_error(text: str, secret: str) -> None:
    assert secret not in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The model returned no answer.",
        "skeletonization failed in skimage_morphology_extras",
        "No module named 'pkg_resources_extended'",
        "hfs_filesystem_driver is missing",
        "tokens: 12345678 of 200000",
        "visit https://example.com/path?x=1",
        'File "/usr/lib/python3.11/site-packages/sklearn_extensions/base.py", line 3',
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert redact_text(text) == text


def test_an_error_of_a_program(traced: Traced) -> None:
    class Program(dspy.Module):
        def forward(self) -> None:
            raise RuntimeError(f"call failed: api_key={CANARY}")

    with pytest.raises(RuntimeError, match=CANARY):
        Program()()
    assert CANARY not in everything_in(traced.spans)
    assert "call failed" in everything_in(traced.spans)


class Seen:
    """A hook that notes what it is shown."""

    def __init__(self, replace: Any = None) -> None:
        self.shown: list[tuple[str, str]] = []
        self.replace = replace

    def __call__(self, operation: str, field: str, value: Any) -> Any:
        self.shown.append((operation, field))
        return value if self.replace is None else self.replace(value)


def program_with_a_tool() -> dspy.Module:
    class Program(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generate = dspy.Predict(dspy.Signature(QA, f"Instruct {CANARY}"))
            self.tool = dspy.Tool(lambda query: query, name="find")

        def forward(self, question: str) -> Any:
            self.tool(query=question)
            return self.generate(question=question)

    return Program()


def test_the_hook_sees_everything_first(trace_with: TraceWith) -> None:
    hook = Seen()
    trace_with(redact=hook, adapter_steps="spans")
    with dspy.context(lm=EchoLM()):
        program_with_a_tool()(question="?")
    assert set(hook.shown) == {
        ("module", "question"),
        ("module", "answer"),
        ("module", "instructions"),
        ("module", "fields"),
        ("tool", "schema"),
        ("tool", "query"),
        ("tool", "result"),
        ("adapter", "demos"),
        ("adapter", "inputs"),
        ("adapter", "output"),
        ("adapter", "question"),
        ("adapter", "answer"),
        ("adapter.format", "demos"),
        ("adapter.format", "inputs"),
        ("adapter.format", "output"),
        ("adapter.format", "question"),
        ("adapter.format", "content"),
        ("adapter.parse", "completion"),
        ("adapter.parse", "answer"),
        ("lm", "messages"),
        ("lm", "content"),
    }


@pytest.mark.any_shape
@pytest.mark.parametrize("replacement", ["masked", None, 0, ["x"]])
def test_what_the_hook_returns_is_recorded(trace_with: TraceWith, replacement: Any) -> None:
    traced = trace_with(redact=Seen(lambda value: replacement))
    with dspy.context(lm=EchoLM(f"[[ ## answer ## ]]\n{CANARY}")):
        result = program_with_a_tool()(question=CANARY)
    assert result.answer == CANARY
    assert CANARY not in everything_in(traced.spans)
    inputs = traced.content("invoke_workflow Program", "dspy.module.input")
    assert inputs == {"question": replacement}


def test_a_hook_that_raises_drops_the_value(
    trace_with: TraceWith, telemetry_log: TelemetryLog
) -> None:
    def fail(value: Any) -> Any:
        raise RuntimeError("hook is broken")

    traced = trace_with(redact=Seen(fail))
    with dspy.context(lm=EchoLM(f"[[ ## answer ## ]]\n{CANARY}")):
        assert program_with_a_tool()(question=CANARY).answer == CANARY
    assert CANARY not in everything_in(traced.spans)
    inputs = traced.content("invoke_workflow Program", "dspy.module.input")
    assert inputs == {"question": "[REDACTED]"}
    (warning,) = telemetry_log.take()
    assert "redact raised RuntimeError" in warning
    assert "hook is broken" not in warning


@pytest.mark.parametrize("where", ["module", "lm", "tool"])
def test_the_hook_has_a_say_on_the_text_of_errors(trace_with: TraceWith, where: str) -> None:
    def fail() -> None:
        raise ValueError(f"no such patient: {CANARY}")

    class Program(dspy.Module):
        def forward(self) -> None:
            if where == "lm":
                FailingLM(lambda: ValueError(f"no such patient: {CANARY}"))("hello")
            elif where == "tool":
                dspy.Tool(fail)()
            else:
                fail()

    traced = trace_with(redact=Seen(lambda value: "masked"))
    with pytest.raises(ValueError, match=CANARY):
        Program()()
    assert CANARY not in everything_in(traced.spans)


def test_a_hook_that_returns_the_unspeakable(
    trace_with: TraceWith, telemetry_log: TelemetryLog
) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    traced = trace_with(redact=Seen(lambda value: Unspeakable()))
    with dspy.context(lm=EchoLM()):
        assert program_with_a_tool()(question="?").answer == "blue"
    attributes = traced.attributes("Predict generate")
    assert "dspy.module.input" in attributes
    assert telemetry_log.take() == []


def test_no_hook_no_copy() -> None:
    value = {"a": 1}
    attributes: dict[str, Any] = {}
    ContentEncoder(Settings()).put(attributes, "x", "module", value)
    assert attributes == {"x": '{"a":1}'}


def test_the_hook_sees_the_fields_of_a_prediction_by_name(trace_with: TraceWith) -> None:
    class Program(dspy.Module):
        def forward(self, ssn: str) -> Any:
            return dspy.Prediction(ssn=ssn, other="plain")

    def mask(operation: str, field: str, value: Any) -> Any:
        return "masked" if field == "ssn" else value

    traced = trace_with(redact=mask)
    assert Program()(ssn=CANARY).ssn == CANARY
    name = "invoke_workflow Program"
    assert traced.content(name, "dspy.module.input") == {"ssn": "masked"}
    assert traced.content(name, "dspy.module.output") == {"ssn": "masked", "other": "plain"}
    assert CANARY not in everything_in(traced.spans)
