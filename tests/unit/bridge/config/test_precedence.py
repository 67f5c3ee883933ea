# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Which source of a setting counts, and what holds if a variable has no usable value."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest

from mlflow_bridge import MLflowDSPyConfig
from mlflow_bridge._config.resolved import resolve_config
from mlflow_bridge._config.settings import (
    INSTRUMENT_ARGUMENTS,
    SAMPLING_FIELDS,
    environment_variable,
    own_variable,
)
from opentelemetry.instrumentation.dspy import ContentMode, load_settings
from tests.unit.bridge.config.test_config import SETTINGS, plain
from tools.precedence import PAGE, other_variable, written

FUNCTION = "os.path:split"
OTHERS = {
    "tracking_uri": "http://another:5000",
    "experiment_name": "another",
    "experiment_id": "9",
    "capture_content": "EVENT_ONLY",
    "max_content_length": "200",
    "redact": FUNCTION,
    "module_filter": "Other",
    "trace_condition": FUNCTION,
    "input_sanitizer": FUNCTION,
    "output_sanitizer": FUNCTION,
    "sampling_modules": "Chat=0.5",
    "sampling_rate_of": FUNCTION,
    "sampling_key_of": FUNCTION,
    "tail_predicate": FUNCTION,
    "max_queue_bytes": "3000000",
    "max_spill_queue_bytes": "3000000",
    "max_batch_bytes": "70000",
    "max_attribute_bytes": "4096",
    "spool_max_bytes": "70000",
}
"""Accepted texts that differ from those in `SETTINGS`, if their types do not say one."""

ANY_TEXT = {
    "experiment_name",
    "tracking_username",
    "tracking_password",
    "tracking_auth",
    "server_cert_path",
    "client_cert_path",
    "spool_directory",
    "module_filter",
}
"""Settings for which most texts are accepted."""

BAD = {
    "experiment_name": "x" * 501,
    "module_filter": "nowhere:function",
    "tracking_token": "two\nlines",
    "workspace": "two\nlines",
    "headers": "no pair",
    "redact": "nowhere:function",
}
DESTINATION = {
    "tracking_uri",
    "experiment_name",
    "experiment_id",
    "tracking_token",
    "insecure_tls",
    "workspace",
    "headers",
}
LESS_CONTENT = {
    "capture_content": ContentMode.NO_CONTENT,
    "log_inputs": False,
    "log_outputs": False,
    "log_signatures": False,
    "log_intermediate_steps": False,
}


def another(name: str) -> str:
    """An accepted text for a setting, other than the one in `SETTINGS`."""
    if name in OTHERS:
        return OTHERS[name]
    field = MLflowDSPyConfig.model_fields[name]
    first = SETTINGS[name][1]
    types = get_args(field.annotation) or (field.annotation,)
    if bool in types:
        return "true" if first == "false" else "false"
    if int in types or float in types:
        return "1" if name in SAMPLING_FIELDS or name == "tail_rate" else "3"
    choices = [one for one in choices_in(field.annotation) if one.lower() != first.lower()]
    return choices[0] if choices else "other=1" if "=" in first else "another"


def choices_in(annotation: Any) -> list[str]:
    """The texts of a `Literal`, also inside of another type."""
    if get_origin(annotation) is Literal:
        return [str(one) for one in get_args(annotation)]
    return [text for part in get_args(annotation) for text in choices_in(part)]


def recorded(name: str, config: MLflowDSPyConfig) -> Any:
    """What the instrumentation does for a setting."""
    argument = INSTRUMENT_ARGUMENTS[name]
    settings = load_settings(**config.instrument_arguments())
    return getattr(settings, "content_mode" if argument == "capture_content" else argument)


def value_of(name: str, config: MLflowDSPyConfig) -> Any:
    return recorded(name, config) if name in INSTRUMENT_ARGUMENTS else getattr(config, name)


def test_the_page_has_the_table() -> None:
    page = PAGE.read_text("utf-8")
    assert written(page) == page, "run python -m tools.precedence"


@pytest.mark.parametrize("name", SETTINGS)
def test_the_first_source_that_is_given_counts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    argument, variable = SETTINGS[name][1], own_variable(name)
    other = other_variable(name)
    monkeypatch.delenv(variable, raising=False)
    default = value_of(name, MLflowDSPyConfig())
    by_argument = value_of(name, MLflowDSPyConfig(**{name: argument}))
    third = None
    if other is not None and other != variable:
        # The same text as the argument's: the middle source has to differ from both.
        monkeypatch.setenv(other, argument)
        third = value_of(name, MLflowDSPyConfig())
        assert third == by_argument
    monkeypatch.setenv(variable, another(name))
    by_variable = value_of(name, MLflowDSPyConfig())
    assert plain(by_variable) != plain(by_argument)
    assert third is None or by_variable != third
    assert value_of(name, MLflowDSPyConfig(**{name: argument})) == by_argument
    monkeypatch.delenv(variable)
    if third is not None:
        monkeypatch.delenv(str(other))
    assert value_of(name, MLflowDSPyConfig()) == default


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ANY_TEXT - BAD.keys()])
def test_a_variable_without_a_usable_value_is_the_safer_choice(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    variable = environment_variable(name)
    monkeypatch.delenv(variable, raising=False)
    default = resolve_config({}).config
    monkeypatch.setenv(variable, BAD.get(name, "not:usable"))
    resolved = resolve_config({})
    config = resolved.config
    if name in DESTINATION:
        assert resolved.obstacle is not None
        assert variable in resolved.obstacle
        return
    assert resolved.obstacle is None
    assert caplog.text.count(variable) >= 1
    if name in LESS_CONTENT:
        assert getattr(config, name) == LESS_CONTENT[name]
    elif name in ("redact", "input_sanitizer", "output_sanitizer"):
        assert recorded("capture_content", config) is ContentMode.NO_CONTENT
    elif name in ("module_filter", "trace_condition"):
        assert getattr(config, name)("anything") is False
    else:
        assert getattr(config, name) == getattr(default, name)
