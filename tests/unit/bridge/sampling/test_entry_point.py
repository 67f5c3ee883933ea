# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, ParentBased

from mlflow_bridge import ConfigurationError, DSPySampler, MLflowDSPyConfig
from mlflow_bridge.sampling.entry_point import (
    dspy_sampler,
    sampler_of_new_provider,
    warn_of_unused_settings,
)

RATE = "MLFLOW_DSPY_SAMPLING_RATE"


@pytest.fixture(autouse=True)
def warnings_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="mlflow_bridge")


@pytest.mark.parametrize("group", ["opentelemetry_traces_sampler", "opentelemetry_sampler"])
def test_opentelemetry_finds_it_by_name(group: str) -> None:
    [found] = entry_points(group=group, name="dspy")
    assert found.load() is dspy_sampler


@pytest.mark.parametrize(
    ("rate", "argument", "description"),
    [
        (None, None, "DSPySampler{}"),
        (None, "0.1", "DSPySampler{rate=0.1}"),
        (None, 0.1, "DSPySampler{rate=0.1}"),
        (None, "0", "DSPySampler{rate=0.0}"),
        (None, 0, "DSPySampler{rate=0.0}"),
        ("0.5", None, "DSPySampler{rate=0.5}"),
        ("0.5", "", "DSPySampler{rate=0.5}"),
        # The bridge's own variable goes before that of OpenTelemetry, and both before a default.
        ("0.5", "0.1", "DSPySampler{rate=0.5}"),
        ("0.5", 0.1, "DSPySampler{rate=0.1}"),
    ],
)
def test_the_argument_is_the_rate(
    monkeypatch: pytest.MonkeyPatch, rate: str | None, argument: Any, description: str
) -> None:
    if rate is not None:
        monkeypatch.setenv(RATE, rate)
    if isinstance(argument, str):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    assert dspy_sampler(argument).get_description() == description


def test_a_bad_argument_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert dspy_sampler("10 %").get_description() == "DSPySampler{}"
    [line] = caplog.messages
    assert line.startswith("Sampling: OTEL_TRACES_SAMPLER_ARG=10 %: ")
    assert line.endswith("accepted: a number, 0 to 1")


def test_a_bad_variable_is_named_and_its_default_holds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_SAMPLING_KEY", "customer")
    monkeypatch.setenv(RATE, "0")
    assert dspy_sampler().get_description() == "DSPySampler{rate=0.0}"
    assert dspy_sampler("0.5").get_description() == "DSPySampler{rate=0.5}"
    [line] = caplog.messages
    assert "MLFLOW_DSPY_SAMPLING_KEY" in line
    assert "conversation" in line


@pytest.mark.parametrize(
    ("named", "rate", "description"),
    [
        (None, None, DEFAULT_ON.get_description()),
        (None, "0.5", "DSPySampler{rate=0.5}"),
        ("dspy", None, "DSPySampler{rate=0.1}"),
        ("DSPy ", "0.5", "DSPySampler{rate=0.5}"),
        ("parentbased_traceidratio", "0.5", None),
        ("always_off", None, None),
    ],
)
def test_the_sampler_of_a_provider_that_is_made_for_autolog(
    monkeypatch: pytest.MonkeyPatch, named: str | None, rate: str | None, description: str | None
) -> None:
    for name, value in (("OTEL_TRACES_SAMPLER", named), (RATE, rate)):
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.1")
    sampler = sampler_of_new_provider(MLflowDSPyConfig())
    assert (sampler and sampler.get_description()) == description


def test_settings_that_have_no_effect_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_unused_settings(TracerProvider(), MLflowDSPyConfig())
    assert caplog.messages == []
    monkeypatch.setenv(RATE, "0.5")
    monkeypatch.setenv("MLFLOW_DSPY_SAMPLING_EVALUATIONS", "summary")
    warn_of_unused_settings(TracerProvider(), MLflowDSPyConfig())
    [line] = caplog.messages
    assert line.startswith(f"{RATE}, MLFLOW_DSPY_SAMPLING_EVALUATIONS: no effect")
    assert "OTEL_TRACES_SAMPLER=dspy" in line


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_provider_with_the_sampler_needs_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrapped: bool
) -> None:
    monkeypatch.setenv(RATE, "0.5")
    sampler = DSPySampler(MLflowDSPyConfig())
    provider = TracerProvider(sampler=ParentBased(sampler) if wrapped else sampler)
    warn_of_unused_settings(provider, MLflowDSPyConfig())
    warn_of_unused_settings(object(), MLflowDSPyConfig())
    assert caplog.messages == []


def test_a_sampler_with_other_settings_is_named(caplog: pytest.LogCaptureFixture) -> None:
    provider = TracerProvider(sampler=DSPySampler(MLflowDSPyConfig(sampling_rate=0.5)))
    config = MLflowDSPyConfig(sampling_rate=0.25, sampling_key="trace")
    warn_of_unused_settings(provider, config)
    warn_of_unused_settings(provider, config)
    [line] = caplog.messages
    assert line.startswith(f"{RATE}: no effect")
    assert "DSPySampler{rate=0.5}" in line
    assert "OTEL_TRACES_SAMPLER" not in line


@pytest.mark.parametrize(
    ("settings", "argument", "description"),
    [
        ({"sampling_rate": 0.5}, "0.1", "DSPySampler{rate=0.5}"),
        ({"sampling_key": "user"}, "0.1", "DSPySampler{rate=0.1,key=user}"),
        ({"sampling_key": "user"}, "", "DSPySampler{key=user}"),
        ({"sampling_key": "user"}, "much", "DSPySampler{key=user}"),
    ],
)
def test_settings_that_code_gives_reach_a_sampler_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], argument: str, description: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "dspy")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    sampler = sampler_of_new_provider(MLflowDSPyConfig(**settings))
    assert sampler is not None
    assert sampler.get_description() == description


def test_a_sampler_takes_a_configuration_only() -> None:
    wrong: Any = 0.5
    with pytest.raises(ConfigurationError, match="is a float; accepted: an MLflowDSPyConfig"):
        DSPySampler(wrong)
