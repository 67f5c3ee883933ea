# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The setting ``redact`` by names and patterns holds in every span, event and exception."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import dspy
import pytest

from opentelemetry.instrumentation.dspy import ContentMode, load_settings
from opentelemetry.instrumentation.dspy._content.encoder import ContentEncoder
from opentelemetry.instrumentation.dspy._content.redactor import Redactor
from tests.support.dspy_prompts import chat_text
from tests.support.lms import EchoLM
from tests.support.traced import everything_in
from tests.unit.instrumentation.conftest import TraceWith

SSN, QUOTED = "078-05-1120", 'O"Brien \\ Söhne'
HIDDEN = "[REDACTED]"


class Ask(dspy.Signature):
    """Answer."""

    ssn: str = dspy.InputField()
    customer: dict[str, Any] = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()
    secret_code: str = dspy.OutputField()


class Program(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict(Ask)
        self.tool = dspy.Tool(self.look_up, name="look_up")
        self.search = Search()

    def look_up(self, ssn: str) -> str:
        return f"known: {ssn}"

    def forward(self, ssn: str, customer: Any, question: str) -> Any:
        self.tool(ssn=ssn)
        self.search(f"who is {ssn}?")
        return self.ask(ssn=ssn, customer=customer, question=question)


class Search(dspy.Retrieve):
    def forward(self, query: str) -> Any:
        return dspy.Prediction(passages=[f"{query} is {SSN}"])


ANSWER = chat_text(answer=f"it is {SSN}", secret_code="code-4711")


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter])
def test_a_field_is_hidden_in_every_span(trace_with: TraceWith, adapter: Any) -> None:
    traced = trace_with(redact="field:ssn, field:name, field:secret_code")
    answer = {
        dspy.ChatAdapter: ANSWER,
        dspy.JSONAdapter: json.dumps({"answer": f"it is {SSN}", "secret_code": "code-4711"}),
        dspy.XMLAdapter: f"<answer>it is {SSN}</answer>\n<secret_code>code-4711</secret_code>",
    }[adapter]
    with dspy.context(lm=EchoLM(reply=answer), adapter=adapter()):
        result = Program()(ssn=SSN, customer={"name": QUOTED, "age": 7}, question="who?")
    assert (result.answer, result.secret_code) == (f"it is {SSN}", "code-4711")
    recorded = everything_in(traced.spans)
    for canary in (SSN, "code-4711", "Brien", "Söhne"):
        assert canary not in recorded
    assert traced.content("invoke_workflow Program", "dspy.module.input") == {
        "ssn": HIDDEN,
        "customer": {"name": HIDDEN, "age": 7},
        "question": "who?",
    }
    assert "who?" in traced.attributes("chat echo")["gen_ai.input.messages"]


def test_a_field_is_hidden_in_exceptions(trace_with: TraceWith) -> None:
    traced = trace_with(redact=["field:ssn"])

    def fail(ssn: str) -> None:
        raise ValueError(f"nothing known of {ssn}")

    with pytest.raises(ValueError, match=SSN):
        dspy.Tool(fail, name="fail", args={"ssn": {"type": "string"}})(ssn=SSN)
    assert SSN not in everything_in(traced.spans)
    schema = traced.content("execute_tool fail", "dspy.tool.schema")
    assert schema["properties"] == {"ssn": {"type": "string"}}


def test_patterns_are_hidden_in_prompts(trace_with: TraceWith) -> None:
    traced = trace_with(redact=["email,ip", re.compile(r"K-\d+")])
    text = "mail a.b@example.org from 192.168.1.7 or 2001:db8::1, case K-123, at 10:30"
    lm = EchoLM(reply=text)
    assert lm(text) == [text]
    recorded = everything_in(traced.spans)
    for canary in ("a.b@example.org", "192.168.1.7", "2001:db8::1", "K-123"):
        assert canary not in recorded
    assert "at 10:30" in recorded


def test_what_is_cut_is_redacted_before(trace_with: TraceWith) -> None:
    traced = trace_with(redact="email", max_content_length=64)
    EchoLM(reply="b")("x" * 40 + " somebody.with.a.name@example.org")
    assert "somebody" not in everything_in(traced.spans)


def hide(redact: str, value: Any) -> Any:
    """What is recorded instead of a value."""
    attributes: dict[str, Any] = {}
    settings = load_settings(redact=redact)
    encoder = ContentEncoder(settings, redactor=Redactor(settings))
    encoder.put(attributes, "dspy.module.input", "module", {"field": value})
    return json.loads(attributes["dspy.module.input"])["field"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pay 4111 1111 1111 1111 now", f"pay {HIDDEN} now"),
        ("no 4111 1111 1111 1112 card", "no 4111 1111 1111 1112 card"),
        ("to GB82 WEST 1234 5698 7654 32 PLEASE", f"to {HIDDEN} PLEASE"),
        ("card 4111 1111 1111 1111 12/27", f"card {HIDDEN} 12/27"),
        ("order 5 4111-1111-1111-1111", f"order 5 {HIDDEN}"),
        ("4111111111111111 5500005555555559", f"{HIDDEN} {HIDDEN}"),
        ("GB82WEST12345698765432", HIDDEN),
        ("GB82WEST12345698765433", "GB82WEST12345698765433"),
        (4111111111111111, HIDDEN),
        ([17], [17]),
    ],
)
def test_numbers_are_validated(text: Any, shown: Any) -> None:
    assert hide("card,iban", text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ip:10.0.0.1", f"ip:{HIDDEN}"),
        ("at 10.0.0.1:8080", f"at {HIDDEN}:8080"),
        ("addr:2001:db8::1.", f"addr:{HIDDEN}."),
        ("::ffff:10.0.0.1", HIDDEN),
        ("at 10:30:00, items[::-1], std::vector, 999.1.1.1", None),
        ("mailto:ann%40example.org", f"mailto:{HIDDEN}"),
        ("Jörg.Müller@exämple.org!", f"{HIDDEN}!"),
        ("a@b", None),
    ],
)
def test_addresses(text: str, shown: str | None) -> None:
    assert hide("email,ip", text) == (shown or text)


@pytest.mark.parametrize(
    "text",
    ["AB12" + "A" * 40, "1" * 100_000, "a" * 100_000, "1:" * 50_000, "1." * 50_000, "a@" * 50_000],
    ids=["groups", "digits", "letters", "colons", "dots", "ats"],
)
def test_patterns_take_time_in_proportion(text: str) -> None:
    # Quadratic time would exceed the time limit of the whole run.
    assert hide("email,card,iban,ip,phone,api_key", f"{text} " * (100_000 // len(text)))


def test_phone_numbers_with_a_country_code() -> None:
    assert hide("phone", "call +44 20 7946 0958 or +1") == f"call {HIDDEN} or +1"


def test_a_function_keeps_its_place() -> None:
    def redact(operation: str, field: str, value: Any) -> Any:
        return value

    assert load_settings(redact=redact).redact is redact
    settings = load_settings(redact=[redact, "os.path:join", "field:a"])
    assert settings.redact is not None
    assert settings.redaction_rules is not None


@pytest.mark.parametrize(
    "wrong", ["emial", "nowhere:function", "os.path:sep", 7, ["email", 7], "regex:(", "field:"]
)
def test_a_wrong_value_is_named(wrong: Any) -> None:
    with pytest.raises(ValueError, match="redact is "):
        load_settings(redact=wrong)


def test_what_the_environment_cannot_load_means_no_content(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: Any
) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_DSPY_REDACT", "email,nowhere:function")
    assert load_settings(capture_content=True).content_mode is ContentMode.NO_CONTENT
    (warning,) = telemetry_log.take()
    assert "OTEL_INSTRUMENTATION_DSPY_REDACT" in warning


def test_a_missing_package_means_no_content(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: Any
) -> None:
    monkeypatch.setitem(sys.modules, "stdnum", None)
    monkeypatch.setenv("OTEL_INSTRUMENTATION_DSPY_REDACT", "card")
    assert load_settings(capture_content=True).content_mode is ContentMode.NO_CONTENT
    (warning,) = telemetry_log.take()
    assert "opentelemetry-instrumentation-dspy[redaction]" in warning
    with pytest.raises(ValueError, match="needs python-stdnum"):
        load_settings(redact="card")


def test_a_regular_expression_takes_the_rest_of_a_text() -> None:
    rules = load_settings(redact="email,field:a,regex:x{1,2},y").redaction_rules
    assert rules is not None
    assert [expression.pattern for expression in rules.expressions] == ["x{1,2},y"]
    assert (rules.fields, rules.patterns) == ({"a"}, {"email"})
