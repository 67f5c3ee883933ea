# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A wrong argument raises; a wrong variable is named once, and the safer choice holds."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_bridge import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._config.resolved import resolve_config
from opentelemetry.instrumentation.dspy import ContentMode


def redact(operation: str, field: str, value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("variable", "field", "value"),
    [
        ("MLFLOW_DSPY_MAX_QUEUE_SIZE", "max_queue_size", 20_000),
        ("MLFLOW_DSPY_TRACES", "traces", "genai"),
        ("MLFLOW_DSPY_SPOOL", "spool", True),
        ("MLFLOW_DSPY_WRITE_AHEAD", "write_ahead", False),
        ("MLFLOW_DSPY_SAMPLING_RATE", "sampling_rate", 1.0),
        ("MLFLOW_DSPY_CAPTURE_CONTENT", "capture_content", ContentMode.NO_CONTENT),
        ("MLFLOW_DSPY_LOG_INPUTS", "log_inputs", False),
        ("MLFLOW_DSPY_LOG_OUTPUTS", "log_outputs", False),
        ("MLFLOW_DSPY_LOG_SIGNATURES", "log_signatures", False),
        ("MLFLOW_DSPY_LOG_INTERMEDIATE_STEPS", "log_intermediate_steps", False),
        ("MLFLOW_DSPY_ADAPTER_STEPS", "adapter_steps", None),
        ("MLFLOW_DSPY_RESOURCE_USAGE", "resource_usage", None),
        ("MLFLOW_DSPY_MAX_CONTENT_LENGTH", "max_content_length", None),
        ("MLFLOW_DSPY_LOG_LEVEL", "log_level", None),
    ],
)
def test_the_safer_choice_for_a_wrong_variable(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    field: str,
    value: Any,
) -> None:
    monkeypatch.setenv(variable, "wrong")
    monkeypatch.setenv("MLFLOW_DSPY_MAX_BATCH_SIZE", "7")
    for _ in range(2):
        resolved = resolve_config({"experiment_name": "mine"})
        assert resolved.obstacle is None
        assert getattr(resolved.config, field) == value
        assert resolved.config.max_batch_size == 7
        assert resolved.config.experiment_name == "mine"
    [line] = caplog.messages
    assert line.startswith(f"{variable} (argument {field})")
    assert "Used instead: " in line


def test_what_cannot_be_redacted_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_REDACT", "nowhere:function")
    config = resolve_config({"capture_content": True}).config
    arguments = config.instrument_arguments()
    assert arguments.pop("redact")("span", "mlflow.spanInputs", "text") == "[REDACTED]"
    assert arguments == {"capture_content": ContentMode.NO_CONTENT}
    [line] = caplog.messages
    assert "MLFLOW_DSPY_CAPTURE_CONTENT=NO_CONTENT" in line


@pytest.mark.parametrize("name", ["input_sanitizer", "output_sanitizer"])
def test_what_cannot_be_sanitised_is_not_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(f"MLFLOW_DSPY_{name.upper()}", "nowhere:function")
    config = resolve_config({"capture_content": True}).config
    assert config.instrument_arguments() == {"capture_content": ContentMode.NO_CONTENT}
    [line] = caplog.messages
    assert line.endswith("Used instead: MLFLOW_DSPY_CAPTURE_CONTENT=NO_CONTENT.")


@pytest.mark.parametrize("name", ["module_filter", "trace_condition"])
def test_without_a_filter_or_condition_that_is_meant_nothing_is_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setenv(f"MLFLOW_DSPY_{name.upper()}", "nowhere:function")
    config = resolve_config({}).config
    assert getattr(config, name)("RAG") is False
    assert config == resolve_config({}).config
    [line] = caplog.messages
    assert line.startswith(f"MLFLOW_DSPY_{name.upper()} (argument {name})")
    assert line.endswith("=a function that selects no call.")
    monkeypatch.delenv(f"MLFLOW_DSPY_{name.upper()}")
    assert getattr(resolve_config({name: redact}).config, name) is redact


def test_a_function_for_redaction_is_found_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_REDACT", f"{__name__}:redact")
    assert resolve_config({}).config.redact is redact


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"MLFLOW_TRACKING_URI": "nowhere"}, "MLFLOW_TRACKING_URI"),
        ({"MLFLOW_EXPERIMENT_ID": "seven"}, "MLFLOW_EXPERIMENT_ID"),
        (
            {
                "MLFLOW_TRACKING_INSECURE_TLS": "true",
                "MLFLOW_TRACKING_SERVER_CERT_PATH": "/ca.pem",
            },
            "exclude each other",
        ),
    ],
)
def test_spans_go_nowhere_rather_than_to_another_place(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], named: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_DSPY_MAX_BATCH_SIZE", "7")
    resolved = resolve_config({})
    assert resolved.obstacle is not None
    assert named in resolved.obstacle
    assert resolved.config.max_batch_size == 7


def test_several_wrong_variables_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere")
    monkeypatch.setenv("MLFLOW_DSPY_MAX_BATCH_SIZE", "0")
    resolved = resolve_config({})
    assert resolved.config.max_batch_size == 512
    assert resolved.obstacle is not None
    assert "MLFLOW_DSPY_MAX_BATCH_SIZE" in resolved.obstacle
    assert "MLFLOW_TRACKING_URI" in resolved.obstacle


def test_a_wrong_argument_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="max_batch_size"):
        resolve_config({"max_batch_size": 0})
    with pytest.raises(ConfigurationError, match="there is no setting 'max_batchsize'"):
        resolve_config({"max_batchsize": 5})
    monkeypatch.setenv("MLFLOW_DSPY_SPOOL", "false")
    with pytest.raises(ConfigurationError, match="MLFLOW_DSPY_WRITE_AHEAD"):
        resolve_config({"write_ahead": True})


def test_a_right_argument_goes_before_a_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MLflowDSPyConfig.model_fields:
        if name.startswith("sampling_"):
            monkeypatch.setenv(f"MLFLOW_DSPY_{name}".upper(), "wrong")
    given: dict[str, Any] = {"sampling_rate": 0.5, "sampling_modules": {}, "sampling_key": "user"}
    given |= {"sampling_optimizers": "off", "sampling_evaluations": "off"}
    given |= {"sampling_summary_rate": 0.1}
    assert resolve_config(given).config.sampling_rate == 0.5
