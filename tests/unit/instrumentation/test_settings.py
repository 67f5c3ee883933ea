# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings: what is accepted, what wins, and what is said of a mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from opentelemetry.instrumentation.dspy import ContentMode, DSPyInstrumentor, ModuleFilter
from opentelemetry.instrumentation.dspy import environment_variables as env
from opentelemetry.instrumentation.dspy._settings import (
    Settings,
    load_settings,
    set_default_arguments,
)
from tests.support.traced import uninstrument
from tests.unit.instrumentation.conftest import TelemetryLog

GENAI = env.OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT
OWN_LENGTH = env.OTEL_INSTRUMENTATION_DSPY_MAX_CONTENT_LENGTH
SWITCHES = {
    "capture_inputs": env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_INPUTS,
    "capture_outputs": env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_OUTPUTS,
    "capture_signatures": env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_SIGNATURES,
    "capture_intermediate_steps": env.OTEL_INSTRUMENTATION_DSPY_CAPTURE_INTERMEDIATE_STEPS,
}
CHOICES = {
    "adapter_steps": (
        env.OTEL_INSTRUMENTATION_DSPY_ADAPTER_STEPS,
        ("attributes", "spans"),
        "attributes or spans",
    ),
    "resource_usage": (
        env.OTEL_INSTRUMENTATION_DSPY_RESOURCE_USAGE,
        ("outermost", "off", "all"),
        "off, outermost or all",
    ),
    "evaluation_traces": (
        env.OTEL_INSTRUMENTATION_DSPY_EVALUATION_TRACES,
        ("tree", "per_example"),
        "tree or per_example",
    ),
}
MODES = {
    "NO_CONTENT": ContentMode.NO_CONTENT,
    "SPAN_ONLY": ContentMode.SPAN_ONLY,
    "EVENT_ONLY": ContentMode.EVENT_ONLY,
    "SPAN_AND_EVENT": ContentMode.SPAN_AND_EVENT,
    "span_only": ContentMode.SPAN_ONLY,
    " True ": ContentMode.SPAN_ONLY,
    "1": ContentMode.SPAN_ONLY,
    "FALSE": ContentMode.NO_CONTENT,
    "0": ContentMode.NO_CONTENT,
}


def test_defaults() -> None:
    assert load_settings() == Settings(
        content_mode=ContentMode.NO_CONTENT,
        capture_inputs=True,
        capture_outputs=True,
        capture_signatures=True,
        capture_intermediate_steps=True,
        max_content_length=262_144,
        redact=None,
        adapter_steps="attributes",
        resource_usage="outermost",
    )


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_of_several_words(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    variable, words, _ = CHOICES[name]
    assert getattr(load_settings(), name) == words[0]
    for word in words:
        monkeypatch.setenv(variable, f" {word.upper()} ")
        assert getattr(load_settings(), name) == word
        assert getattr(load_settings(**{name: word}), name) == word


@pytest.mark.parametrize("name", CHOICES)
def test_a_word_that_is_not_accepted(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: TelemetryLog, name: str
) -> None:
    variable, words, accepted = CHOICES[name]
    with pytest.raises(ValueError, match=f"{name} is 'some'; accepted: {accepted}"):
        load_settings(**{name: "some"})
    monkeypatch.setenv(variable, "some")
    assert getattr(load_settings(), name) == words[0]
    assert telemetry_log.take() == [
        f"{variable} is 'some'; accepted: {accepted}. Using {words[0]}."
    ]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_settings().capture_inputs = False  # type: ignore[misc]


@pytest.mark.parametrize(("text", "mode"), MODES.items())
def test_modes(monkeypatch: pytest.MonkeyPatch, text: str, mode: ContentMode) -> None:
    assert load_settings(capture_content=text).content_mode is mode
    monkeypatch.setenv(GENAI, text)
    assert load_settings().content_mode is mode


@pytest.mark.parametrize(
    ("argument", "mode"),
    [
        (True, ContentMode.SPAN_ONLY),
        (False, ContentMode.NO_CONTENT),
        (ContentMode.EVENT_ONLY, ContentMode.EVENT_ONLY),
    ],
)
def test_modes_as_values(monkeypatch: pytest.MonkeyPatch, argument: Any, mode: ContentMode) -> None:
    monkeypatch.setenv(GENAI, "SPAN_AND_EVENT")
    assert load_settings(capture_content=argument).content_mode is mode


@pytest.mark.parametrize(
    ("mode", "in_spans"),
    [("NO_CONTENT", False), ("SPAN_ONLY", True), ("EVENT_ONLY", False), ("SPAN_AND_EVENT", True)],
)
def test_what_a_mode_puts_on_spans(mode: str, in_spans: bool) -> None:
    settings = load_settings(capture_content=mode)
    assert (settings.records_inputs, settings.records_outputs) == (in_spans, in_spans)
    settings = load_settings(capture_content=mode, capture_inputs=False, capture_outputs=False)
    assert (settings.records_inputs, settings.records_outputs) == (False, False)


@pytest.mark.parametrize(
    "arguments",
    [
        {"capture_content": "some"},
        {"capture_content": ""},
        {"capture_content": 2},
        {"max_content_length": 0},
        {"max_content_length": 63},
        {"max_content_length": -1},
    ],
)
def test_wrong_arguments_are_errors(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="accepted: ") as caught:
        load_settings(**arguments)
    ((name, value),) = arguments.items()
    assert name in str(caught.value)
    assert repr(value) in str(caught.value)


def test_a_wrong_argument_leaves_dspy_uninstrumented() -> None:
    uninstrument()
    with pytest.raises(ValueError, match="capture_content"):
        DSPyInstrumentor().instrument(capture_content="some")
    with pytest.raises(TypeError, match="capture_everything"):
        DSPyInstrumentor().instrument(capture_everything=True)
    assert not DSPyInstrumentor().is_instrumented_by_opentelemetry
    assert DSPyInstrumentor().status() == ()


def test_a_wrong_mode_in_the_environment_means_less_content(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: TelemetryLog
) -> None:
    monkeypatch.setenv(GENAI, "SPANONLY")
    assert load_settings().content_mode is ContentMode.NO_CONTENT
    (warning,) = telemetry_log.take()
    assert GENAI in warning
    assert "SPANONLY" in warning


@pytest.mark.parametrize(("name", "variable"), SWITCHES.items())
@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("False", False), ("0", False), (" ", True)]
)
def test_switches(
    monkeypatch: pytest.MonkeyPatch, name: str, variable: str, text: str, value: bool
) -> None:
    monkeypatch.setenv(variable, text)
    assert getattr(load_settings(), name) is value
    assert getattr(load_settings(**{name: not value}), name) is not value


@pytest.mark.parametrize(("name", "variable"), SWITCHES.items())
def test_a_wrong_switch_is_off_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: TelemetryLog, name: str, variable: str
) -> None:
    monkeypatch.setenv(variable, "maybe")
    assert getattr(load_settings(), name) is False
    (warning,) = telemetry_log.take()
    assert variable in warning


@pytest.mark.parametrize(
    ("environment", "length"),
    [
        ({OWN_LENGTH: "1000"}, 1_000),
        ({OWN_LENGTH: "1"}, 64),
        ({OWN_LENGTH: ""}, 262_144),
        ({OWN_LENGTH: "1000000"}, 1_000_000),
        ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "2000"}, 2_000),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3000"}, 3_000),
        ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3000", OWN_LENGTH: "1000"}, 1_000),
        ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "2000", OWN_LENGTH: "9000"}, 2_000),
    ],
)
def test_lengths(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], length: int) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert load_settings().max_content_length == length


@pytest.mark.parametrize("text", ["many", "-5", "1e6", "0x10"])
def test_a_wrong_length_is_the_default_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: TelemetryLog, text: str
) -> None:
    monkeypatch.setenv(OWN_LENGTH, text)
    assert load_settings().max_content_length == 262_144
    (warning,) = telemetry_log.take()
    assert OWN_LENGTH in warning


def _redact(operation: str, field: str, value: Any) -> Any:
    return value


@pytest.fixture
def _no_defaults_are_left() -> Iterator[None]:
    yield
    set_default_arguments()


ARGUMENTS: dict[str, Any] = {
    "capture_content": ContentMode.SPAN_AND_EVENT,
    "capture_inputs": False,
    "capture_outputs": False,
    "capture_signatures": False,
    "capture_intermediate_steps": False,
    "adapter_steps": "spans",
    "resource_usage": "all",
    "evaluation_traces": "per_example",
    "max_content_length": 100,
    "redact": _redact,
    "request_hook": print,
    "response_hook": print,
}


@pytest.mark.usefixtures("_no_defaults_are_left")
@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_default_of_another_package_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    field = "content_mode" if name == "capture_content" else name
    monkeypatch.setenv(GENAI, "SPAN_ONLY")
    monkeypatch.setenv(OWN_LENGTH, "90")
    for variable in SWITCHES.values():
        monkeypatch.setenv(variable, "true")
    before = getattr(load_settings(), field)

    set_default_arguments(**{name: ARGUMENTS[name]})

    assert getattr(load_settings(), field) == ARGUMENTS[name] != before
    set_default_arguments()
    assert getattr(load_settings(), field) == before


@pytest.mark.usefixtures("_no_defaults_are_left")
def test_an_argument_goes_before_a_default_of_another_package() -> None:
    set_default_arguments(capture_content=True, capture_inputs=False, max_content_length=100)

    settings = load_settings(capture_content=False, capture_inputs=True, max_content_length=200)

    assert settings.content_mode is ContentMode.NO_CONTENT
    assert settings.capture_inputs
    assert settings.max_content_length == 200


@pytest.mark.usefixtures("_no_defaults_are_left")
def test_a_default_that_is_not_accepted_is_an_error_and_changes_nothing() -> None:
    set_default_arguments(capture_inputs=False)

    with pytest.raises(ValueError, match="capture_content is 'some'; accepted: "):
        set_default_arguments(capture_content="some")
    with pytest.raises(ValueError, match="redact is 'emial'; accepted: "):
        set_default_arguments(redact="emial")
    with pytest.raises(TypeError, match="capture_everything"):
        set_default_arguments(capture_everything=True)

    assert not load_settings().capture_inputs


@pytest.mark.usefixtures("_no_defaults_are_left")
def test_defaults_of_another_package_reach_an_instrumentor_without_arguments() -> None:
    instrumentor = DSPyInstrumentor()
    uninstrument()
    assert instrumentor.settings is None
    set_default_arguments(capture_content=True, redact=_redact)
    try:
        instrumentor.instrument()
        settings = instrumentor.settings
    finally:
        uninstrument()

    assert settings is not None
    assert (settings.content_mode, settings.redact) == (ContentMode.SPAN_ONLY, _redact)


def select(name: str) -> bool:
    return name == "RAG"


def keep(values: dict[str, Any]) -> dict[str, Any]:
    return values


async def later(values: dict[str, Any]) -> dict[str, Any]:
    return values


class Later:
    async def __call__(self, values: dict[str, Any]) -> dict[str, Any]:
        return values


FUNCTIONS = {
    "trace_condition": env.OTEL_INSTRUMENTATION_DSPY_TRACE_CONDITION,
    "input_sanitizer": env.OTEL_INSTRUMENTATION_DSPY_INPUT_SANITIZER,
    "output_sanitizer": env.OTEL_INSTRUMENTATION_DSPY_OUTPUT_SANITIZER,
}
FILTER = env.OTEL_INSTRUMENTATION_DSPY_MODULE_FILTER


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_by_its_place(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for place in (f"{__name__}:keep", f"{__name__}.keep"):
        monkeypatch.setenv(FUNCTIONS[name], f" {place} ")
        assert getattr(load_settings(), name) is keep
        assert getattr(load_settings(**{name: place}), name) is keep
        assert getattr(load_settings(**{name: select}), name) is select


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("RAG", ModuleFilter(("RAG",))),
        ("RAG, Chat*", ModuleFilter(("RAG", "Chat*"))),
        (["RAG", "Chat*,Other"], ModuleFilter(("RAG", "Chat*", "Other"))),
        (select, ModuleFilter(predicates=(select,))),
        (f"RAG,{__name__}:select", ModuleFilter(("RAG",), (select,))),
        (ModuleFilter(("RAG",)), ModuleFilter(("RAG",))),
    ],
)
def test_the_forms_of_a_filter(
    monkeypatch: pytest.MonkeyPatch, setting: Any, expected: ModuleFilter
) -> None:
    assert load_settings(module_filter=setting).module_filter == expected
    if isinstance(setting, str):
        monkeypatch.setenv(FILTER, setting)
        assert load_settings().module_filter == expected


@pytest.mark.parametrize("name", ["module_filter", *FUNCTIONS])
@pytest.mark.parametrize(
    "value", [5, later, Later(), f"{__name__}:later", "nowhere:x", "nowhere.x"]
)
def test_a_function_that_is_not_accepted(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*accepted: "):
        load_settings(**{name: value})


@pytest.mark.parametrize("value", ["", [], [5], " , "])
def test_a_filter_that_is_not_accepted(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^module_filter is .*accepted: the name of a class"):
        load_settings(module_filter=value)


@pytest.mark.parametrize("name", ["input_sanitizer", "output_sanitizer"])
def test_without_its_sanitizer_no_content_is_recorded(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: TelemetryLog, name: str
) -> None:
    monkeypatch.setenv(FUNCTIONS[name], "nowhere:function")
    settings = load_settings(capture_content=True)
    assert settings.content_mode is ContentMode.NO_CONTENT
    [line] = telemetry_log.take()
    assert line.startswith(FUNCTIONS[name])
    assert "Recording no content." in line


def test_without_its_filter_or_condition_nothing_is_recorded(
    monkeypatch: pytest.MonkeyPatch, telemetry_log: TelemetryLog
) -> None:
    monkeypatch.setenv(FILTER, "nowhere:function")
    monkeypatch.setenv(FUNCTIONS["trace_condition"], "nowhere:function")
    settings = load_settings()
    assert settings == load_settings()
    assert settings.module_filter is not None
    assert settings.trace_condition is not None
    assert not settings.module_filter.has_name("RAG")
    assert not any(predicate("RAG") for predicate in settings.module_filter.predicates)
    assert not settings.trace_condition({})
    lines = telemetry_log.take()
    assert len(lines) == 4
    assert all(line.endswith("Recording nothing.") for line in lines)


def test_variables_are_named_like_their_values() -> None:
    names = {name: value for name, value in vars(env).items() if name.startswith("OTEL_")}
    assert len(names) == 15
    assert all(name == value for name, value in names.items())
