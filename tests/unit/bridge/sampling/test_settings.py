# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mlflow_bridge import ConfigurationError, SamplingSettings
from mlflow_bridge.sampling.settings import sampling_variable

SETTINGS: dict[str, tuple[str, str, Any]] = {
    "ratio": ("MLFLOW_DSPY_SAMPLING_RATIO", "0.25", 0.25),
    "modules": ("MLFLOW_DSPY_SAMPLING_MODULES", "RAG=1, Chat=0.05", {"RAG": 1.0, "Chat": 0.05}),
    "key": ("MLFLOW_DSPY_SAMPLING_KEY", "session", "session"),
    "optimizers": ("MLFLOW_DSPY_SAMPLING_OPTIMIZERS", "summary", "summary"),
    "evaluations": ("MLFLOW_DSPY_SAMPLING_EVALUATIONS", "off", "off"),
    "summary_ratio": ("MLFLOW_DSPY_SAMPLING_SUMMARY_RATIO", "0", 0.0),
}


def test_by_default_everything_is_recorded() -> None:
    settings = SamplingSettings()
    assert settings.ratio == 1.0
    assert settings.modules == {}
    assert settings.key == "trace"
    assert settings.optimizers == settings.evaluations == "full"


def test_every_setting_is_tested() -> None:
    assert SETTINGS.keys() == SamplingSettings.model_fields.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    variable, text, value = SETTINGS[name]
    assert sampling_variable(name) == variable
    monkeypatch.setenv(variable, text)
    assert getattr(SamplingSettings(), name) == value


@pytest.mark.parametrize("name", SETTINGS)
def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    variable, _, value = SETTINGS[name]
    monkeypatch.setenv(variable, "not accepted")
    assert getattr(SamplingSettings(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ratio", "1.5"),
        ("ratio", "-0.1"),
        ("ratio", "nan"),
        ("ratio", "ten percent"),
        ("modules", "RAG"),
        ("modules", "RAG=2"),
        ("key", "customer"),
        ("optimizers", "some"),
        ("evaluations", "none"),
        ("summary_ratio", "inf"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    variable = sampling_variable(name)
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError) as caught:
        SamplingSettings()
    message = str(caught.value)
    assert f"{variable} (argument {name})" in message
    description = SamplingSettings.model_fields[name].description
    assert description is not None
    assert description.rstrip(".") in message


def test_an_unknown_setting_is_refused() -> None:
    unknown: dict[str, Any] = {"rate": 0.1}
    with pytest.raises(ConfigurationError, match="rate"):
        SamplingSettings(**unknown)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        SamplingSettings().ratio = 0.5  # type: ignore[misc]
