# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Settings come from arguments, then the environment; a bad one is named."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mlflow_bridge._config.settings import (
    INSTRUMENT_ARGUMENTS,
    PROCESSOR_FIELDS,
    SAMPLING_FIELDS,
    ConfigurationError,
    MLflowDSPyConfig,
    environment_variable,
)
from opentelemetry.instrumentation.dspy import ContentMode, load_settings


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = MLflowDSPyConfig()
    assert config.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert config.effective_experiment_name == "Default"
    assert not config.is_server
    assert config.destination_description == f"sqlite:///{tmp_path}/mlflow.db, experiment 'Default'"
    assert config.exit_timeout_seconds == 5
    assert config.max_batch_size == 512


def test_relative_path_is_that_of_the_construction(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = MLflowDSPyConfig(tracking_uri="sqlite:///traces/my.db")
    monkeypatch.chdir("/")
    assert config.tracking_uri == f"sqlite:///{tmp_path}/traces/my.db"


SETTINGS: dict[str, tuple[str, str, Any]] = {
    "tracking_uri": ("MLFLOW_TRACKING_URI", "http://host:5000/", "http://host:5000"),
    "experiment_name": ("MLFLOW_EXPERIMENT_NAME", "mine", "mine"),
    "experiment_id": ("MLFLOW_EXPERIMENT_ID", "7", "7"),
    "tracking_username": ("MLFLOW_TRACKING_USERNAME", "me", "me"),
    "tracking_password": ("MLFLOW_TRACKING_PASSWORD", "geheim", "geheim"),
    "tracking_token": ("MLFLOW_TRACKING_TOKEN", "geheim", "geheim"),
    "tracking_auth": ("MLFLOW_TRACKING_AUTH", "plugin", "plugin"),
    "insecure_tls": ("MLFLOW_TRACKING_INSECURE_TLS", "true", True),
    "server_cert_path": ("MLFLOW_TRACKING_SERVER_CERT_PATH", "/ca.pem", Path("/ca.pem")),
    "client_cert_path": ("MLFLOW_TRACKING_CLIENT_CERT_PATH", "/me.pem", Path("/me.pem")),
    "workspace": ("MLFLOW_WORKSPACE", "team", "team"),
    "headers": ("MLFLOW_DSPY_HEADERS", "a=1, b=2=3", {"a": "1", "b": "2=3"}),
    "compression": ("MLFLOW_DSPY_COMPRESSION", "none", "none"),
    "request_timeout_seconds": ("MLFLOW_DSPY_REQUEST_TIMEOUT_SECONDS", "2.5", 2.5),
    "exit_timeout_seconds": ("MLFLOW_DSPY_EXIT_TIMEOUT_SECONDS", "1", 1),
    "max_queue_size": ("MLFLOW_DSPY_MAX_QUEUE_SIZE", "100", 100),
    "max_queue_bytes": ("MLFLOW_DSPY_MAX_QUEUE_BYTES", "2000000", 2_000_000),
    "flush_on_sigterm": ("MLFLOW_DSPY_FLUSH_ON_SIGTERM", "false", False),
    "overflow": ("MLFLOW_DSPY_OVERFLOW", "block", "block"),
    "block_seconds": ("MLFLOW_DSPY_BLOCK_SECONDS", "0.5", 0.5),
    "max_spill_queue_size": ("MLFLOW_DSPY_MAX_SPILL_QUEUE_SIZE", "100", 100),
    "max_spill_queue_bytes": ("MLFLOW_DSPY_MAX_SPILL_QUEUE_BYTES", "2000000", 2_000_000),
    "traces": ("MLFLOW_DSPY_TRACES", "all", "all"),
    "custom_tags": ("MLFLOW_DSPY_TAGS", "team=search, tier=1", {"team": "search", "tier": "1"}),
    "custom_metadata": ("MLFLOW_DSPY_CUSTOM_METADATA", "release=7", {"release": "7"}),
    "trace_metadata": ("MLFLOW_DSPY_TRACE_METADATA", "full", "full"),
    "drop_asgi_io_spans": ("MLFLOW_DSPY_DROP_ASGI_IO_SPANS", "false", False),
    "max_batch_size": ("MLFLOW_DSPY_MAX_BATCH_SIZE", "10", 10),
    "max_batch_bytes": ("MLFLOW_DSPY_MAX_BATCH_BYTES", "65536", 65536),
    "schedule_delay_seconds": ("MLFLOW_DSPY_SCHEDULE_DELAY_SECONDS", "0.5", 0.5),
    "max_attribute_bytes": ("MLFLOW_DSPY_MAX_ATTRIBUTE_BYTES", "2048", 2048),
    "spool": ("MLFLOW_DSPY_SPOOL", "false", False),
    "spool_directory": ("MLFLOW_DSPY_SPOOL_DIRECTORY", "/spool", Path("/spool")),
    "spool_max_bytes": ("MLFLOW_DSPY_SPOOL_MAX_BYTES", "65536", 65536),
    "spool_max_age_seconds": ("MLFLOW_DSPY_SPOOL_MAX_AGE_SECONDS", "60", 60),
    "spool_fsync": ("MLFLOW_DSPY_SPOOL_FSYNC", "batch", "batch"),
    "write_ahead": ("MLFLOW_DSPY_WRITE_AHEAD", "true", True),
    "sampling_rate": ("MLFLOW_DSPY_SAMPLING_RATE", "0.25", 0.25),
    "sampling_modules": (
        "MLFLOW_DSPY_SAMPLING_MODULES",
        "RAG=1, Chat=0.05",
        {"RAG": 1.0, "Chat": 0.05},
    ),
    "sampling_key": ("MLFLOW_DSPY_SAMPLING_KEY", "session", "session"),
    "sampling_optimizers": ("MLFLOW_DSPY_SAMPLING_OPTIMIZERS", "summary", "summary"),
    "sampling_evaluations": ("MLFLOW_DSPY_SAMPLING_EVALUATIONS", "off", "off"),
    "sampling_summary_rate": ("MLFLOW_DSPY_SAMPLING_SUMMARY_RATE", "0", 0.0),
    "capture_content": (
        "MLFLOW_DSPY_CAPTURE_CONTENT",
        "span_and_event",
        ContentMode.SPAN_AND_EVENT,
    ),
    "log_inputs": ("MLFLOW_DSPY_LOG_INPUTS", "false", False),
    "log_outputs": ("MLFLOW_DSPY_LOG_OUTPUTS", "false", False),
    "log_signatures": ("MLFLOW_DSPY_LOG_SIGNATURES", "false", False),
    "log_intermediate_steps": ("MLFLOW_DSPY_LOG_INTERMEDIATE_STEPS", "false", False),
    "adapter_steps": ("MLFLOW_DSPY_ADAPTER_STEPS", "spans", "spans"),
    "resource_usage": ("MLFLOW_DSPY_RESOURCE_USAGE", "all", "all"),
    "save_programs": ("MLFLOW_DSPY_SAVE_PROGRAMS", "true", True),
    "evaluation_traces": ("MLFLOW_DSPY_EVALUATION_TRACES", "per_example", "per_example"),
    "max_content_length": ("MLFLOW_DSPY_MAX_CONTENT_LENGTH", "100", 100),
    "redact": ("MLFLOW_DSPY_REDACT", "os.path:join", os.path.join),
    "module_filter": ("MLFLOW_DSPY_MODULE_FILTER", "RAG, Chat*", "RAG, Chat*"),
    "trace_condition": ("MLFLOW_DSPY_TRACE_CONDITION", "os.path:join", os.path.join),
    "input_sanitizer": ("MLFLOW_DSPY_INPUT_SANITIZER", "os.path.join", os.path.join),
    "output_sanitizer": ("MLFLOW_DSPY_OUTPUT_SANITIZER", "os.path:join", os.path.join),
    "program_tags": ("MLFLOW_DSPY_PROGRAM_TAGS", "false", False),
    "log_level": ("MLFLOW_DSPY_LOG_LEVEL", "debug", "DEBUG"),
    "tail_rate": ("MLFLOW_DSPY_TAIL_RATE", "0.01", 0.01),
    "tail_keep_errors": ("MLFLOW_DSPY_TAIL_KEEP_ERRORS", "false", False),
    "tail_slower_than_seconds": ("MLFLOW_DSPY_TAIL_SLOWER_THAN_SECONDS", "5", 5.0),
    "tail_cost_above_usd": ("MLFLOW_DSPY_TAIL_COST_ABOVE_USD", "0.1", 0.1),
    "tail_tokens_above": ("MLFLOW_DSPY_TAIL_TOKENS_ABOVE", "1000", 1000),
    "tail_score_below": (
        "MLFLOW_DSPY_TAIL_SCORE_BELOW",
        "correct=0.5, safe=1",
        {"correct": 0.5, "safe": 1.0},
    ),
    "tail_parse_failures": ("MLFLOW_DSPY_TAIL_PARSE_FAILURES", "true", True),
    "tail_new_program_first": ("MLFLOW_DSPY_TAIL_NEW_PROGRAM_FIRST", "20", 20),
    "tail_agent_exhausted": ("MLFLOW_DSPY_TAIL_AGENT_EXHAUSTED", "true", True),
    "tail_predicate": ("MLFLOW_DSPY_TAIL_PREDICATE", "os.path:join", os.path.join),
    "tail_grace_seconds": ("MLFLOW_DSPY_TAIL_GRACE_SECONDS", "7", 7.0),
    "enabled": ("MLFLOW_DSPY_ENABLED", "false", False),
    "trace_buffer_size": ("MLFLOW_DSPY_BUFFER_SIZE", "7", 7),
    "sampling_rate_of": ("MLFLOW_DSPY_SAMPLING_RATE_OF", "os.path:join", os.path.join),
    "sampling_key_of": ("MLFLOW_DSPY_SAMPLING_KEY_OF", "os.path.join", os.path.join),
    "log_evals": ("MLFLOW_DSPY_LOG_EVALS", "true", True),
    "log_compiles": ("MLFLOW_DSPY_LOG_COMPILES", "true", True),
    "register_prompts": ("MLFLOW_DSPY_REGISTER_PROMPTS", "true", True),
}


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def test_the_table_is_complete() -> None:
    assert SETTINGS.keys() == MLflowDSPyConfig.model_fields.keys()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_from_environment_and_argument(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variable, text, value = SETTINGS[name]
    assert environment_variable(name) == variable
    assert plain(getattr(MLflowDSPyConfig.model_validate({name: text}), name)) == value
    monkeypatch.setenv(variable, text)
    assert plain(getattr(MLflowDSPyConfig(), name)) == value
    monkeypatch.setenv(variable, "")
    default = getattr(MLflowDSPyConfig(), name)
    monkeypatch.delenv(variable)
    assert getattr(MLflowDSPyConfig(), name) == default


def test_an_error_shows_the_value_that_was_given() -> None:
    with pytest.raises(ConfigurationError) as caught:
        MLflowDSPyConfig(**dict[str, Any](max_queue_size="many", overflow="x" * 500))
    assert str(caught.value).startswith(
        "MLFLOW_DSPY_MAX_QUEUE_SIZE (argument max_queue_size) is 'many'; accepted: a whole number, "
        "1 to 10000000; MLFLOW_DSPY_OVERFLOW (argument overflow) is 'xxx"
    )
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "value"),
    [("tracking_uri", "ftp://me:s3cr3t@host"), ("headers", "s3cr3t"), ("tracking_token", 7)],
)
def test_an_error_shows_no_value_that_may_be_secret(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MLflowDSPyConfig(**dict[str, Any]([(name, value)]))
    assert "s3cr3t" not in str(caught.value)
    assert "is 7" not in str(caught.value)


def test_every_setting_is_documented() -> None:
    described = {name: field.description for name, field in MLflowDSPyConfig.model_fields.items()}
    without_sentence = [name for name, text in described.items() if not (text or "").endswith(".")]
    without_unit = [
        name
        for name, text in described.items()
        if name.endswith("_seconds") and "seconds" not in (text or "")
    ]

    assert (without_sentence, without_unit) == ([], [])


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:1")
    monkeypatch.setenv("MLFLOW_DSPY_MAX_BATCH_SIZE", "1")
    config = MLflowDSPyConfig(tracking_uri="http://argument:1", max_batch_size=2)
    assert config.tracking_uri == "http://argument:1"
    assert config.max_batch_size == 2


def test_name_as_argument_wins_over_id_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    config = MLflowDSPyConfig(experiment_name="mine")
    assert config.experiment_id is None
    assert config.effective_experiment_name == "mine"


def test_id_wins_over_name_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    config = MLflowDSPyConfig()
    assert config.effective_experiment_name is None
    assert config.destination_description.endswith("experiment id 7")
    (record,) = caplog.records
    assert "MLFLOW_EXPERIMENT_ID" in record.getMessage()
    assert "MLFLOW_EXPERIMENT_NAME" in record.getMessage()


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("max_batch_size", "many", "1 to 100000"),
        ("max_batch_size", 0, "1 to 100000"),
        ("request_timeout_seconds", -1, "3600 seconds"),
        ("request_timeout_seconds", "nan", "3600 seconds"),
        ("compression", "brotli", "accepted: gzip or none"),
        ("insecure_tls", "perhaps", "true or false"),
        ("experiment_id", "seven", "a number"),
        ("headers", "oops", "name=value"),
        ("tracking_uri", "http://", "names no host"),
        ("tracking_uri", "http://host:port", "the port is not a number"),
        ("tracking_uri", "http://[host", "not a valid URL"),
        ("tracking_uri", "http://me:geheim/5@host/", "%2F"),
        ("tracking_uri", "http://me:geheim#5@host/", "%23"),
        ("tracking_uri", "http://me:geheim?5@host/", "%3F"),
        ("tracking_uri", "http://me:geheim\uff0f5@host/", "not a valid URL"),
        ("tracking_uri", "http://host/a\nb", "control characters"),
        ("tracking_uri", "postgresql://me@host:geheim/db", "the port is not a number"),
        ("tracking_uri", "postgresql://me:geh@im@host/db", "%40"),
        ("tracking_uri", "postgresql://me:geh@im?x@host/db", "%40"),
        ("tracking_uri", "me:geheim@host/db", "not supported"),
        ("tracking_uri", "geheim@host:5000", "not a URI"),
        ("tracking_uri", "http://host?x=1", "no query"),
        ("tracking_uri", "sqlite://", "needs a file"),
        ("tracking_uri", "sqlite:///:memory:", "needs a file"),
        ("tracking_uri", "file:///tmp/mlruns", "file store"),
        ("tracking_uri", "./mlruns", "not a URI"),
        ("tracking_uri", "databricks", "Databricks"),
        ("tracking_uri", "databricks://profile", "Databricks"),
        ("tracking_uri", "postgres://host/db", "postgresql://"),
        ("tracking_uri", "postgresql:host", "postgresql://user@host/database"),
        ("tracking_uri", "oracle://host/db", "not supported"),
        ("sampling_rate", "1.5", "0 to 1"),
        ("sampling_rate", -0.1, "0 to 1"),
        ("sampling_rate", "nan", "0 to 1"),
        ("sampling_rate", "ten percent", "0 to 1"),
        ("sampling_modules", "RAG", "RAG=1,Chat=0.05"),
        ("sampling_modules", "RAG=2", "RAG=1,Chat=0.05"),
        ("sampling_key", "customer", "session"),
        ("sampling_optimizers", "some", "summary"),
        ("sampling_evaluations", "none", "summary"),
        ("sampling_summary_rate", "inf", "0 to 1"),
        ("capture_content", "some", "SPAN_AND_EVENT"),
        ("log_inputs", "maybe", "true or false"),
        ("max_content_length", 63, "accepted: a whole number, at least 64"),
        ("redact", "nowhere:function", "package.module:function"),
        ("redact", "os.path:sep", "package.module:function"),
        ("redact", 7, "package.module:function"),
        ("module_filter", 7, "the name of a class"),
        ("module_filter", "nowhere:function", "the name of a class"),
        ("module_filter", [7], "the name of a class"),
        ("trace_condition", 7, "a function that is not async"),
        ("trace_condition", "RAG", "package.module:function"),
        ("input_sanitizer", {"ssn": None}, "package.module:function"),
        ("input_sanitizer", "os.path:sep", "package.module:function"),
        ("output_sanitizer", asyncio.sleep, "a function that is not async"),
        ("output_sanitizer", "nowhere.function", "package.module:function"),
        ("log_level", "LOUD", "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("log_level", 10, "DEBUG, INFO, WARNING, ERROR or CRITICAL"),
        ("enabled", "perhaps", "is 'perhaps'; accepted: true or false"),
        ("enabled", 1, "is 1; accepted: true or false"),
        ("enabled", None, "is None; accepted: true or false"),
        ("trace_buffer_size", 0, "is 0; accepted: a whole number, 1 to 1000000"),
        ("trace_buffer_size", 1_000_001, "accepted: a whole number, 1 to 1000000"),
        ("trace_buffer_size", True, "is True; accepted: a whole number, 1 to 1000000"),
        ("trace_buffer_size", 5.0, "is 5.0; accepted: a whole number, 1 to 1000000"),
        ("trace_buffer_size", [], "is []; accepted: a whole number, 1 to 1000000"),
        ("sampling_rate_of", 7, "sampling_rate_of is 7; accepted: a function that is not async"),
        ("sampling_rate_of", "nowhere:function", "'nowhere:function', which cannot be imported"),
        ("sampling_rate_of", "function", "package.module:function"),
        ("sampling_key_of", asyncio.sleep, "accepted: a function that is not async"),
        ("sampling_key_of", "os.path:sep", "is 'os.path:sep'; accepted: a function"),
        ("log_evals", "some", "is 'some'; accepted: true or false"),
        ("log_evals", 0, "is 0; accepted: true or false"),
        ("log_compiles", {}, "is {}; accepted: true or false"),
        ("register_prompts", 2.5, "is 2.5; accepted: true or false"),
    ],
)
def test_bad_value_is_named_with_what_is_accepted(name: str, value: Any, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        MLflowDSPyConfig(**{name: value})
    message = str(caught.value)
    assert environment_variable(name) in message
    assert f"argument {name}" in message
    assert hint in message
    assert "geh" not in message


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://user:geheim@host/db",
        "postgresql+psycopg2://host/db",
        "mysql+pymysql://host/db",
        "mssql+pyodbc://host/db?driver=x",
        "https://host/base/path",
        "http://[::1]:5000",
    ],
)
def test_accepted_uri_stays_as_it_is(uri: str) -> None:
    assert MLflowDSPyConfig(tracking_uri=uri).tracking_uri == uri


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://user:geheim@host:5/db?password=geheim", "postgresql://host:5/db"),
        ("https://user:geheim@host/base", "https://host/base"),
        ("https://user:geh@eim@host/base", "https://host/base"),
        # The grammar of SQLAlchemy: all up to the last @ is the password.
        ("postgresql://user:geheim/5@host/db", "postgresql://host/db"),
        ("postgresql://user:geheim#5@host/db", "postgresql://host/db"),
        ("postgresql://user:geheim?5@host/db?sslmode=require", "postgresql://host/db"),
        ("postgresql://me@tenant:geheim@host/db", "postgresql://host/db"),
        ("mysql+pymysql://user:[geheim]@[::1]:5/db", "mysql+pymysql://[::1]:5/db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dgeheim", "mssql+pyodbc:///"),
        ("sqlite:////tmp/me@home#1/a.db", "sqlite:////tmp/me@home#1/a.db"),
        ("sqlite:////tmp/a.db?key=geheim", "sqlite:////tmp/a.db"),
        ("sqlite+pysqlite:////tmp/a.db", "sqlite+pysqlite:////tmp/a.db"),
    ],
)
def test_secrets_are_not_shown(uri: str, shown: str) -> None:
    config = MLflowDSPyConfig.model_validate(
        {"tracking_uri": uri, "tracking_password": "geheim", "headers": "k=geheim"}
    )
    assert config.destination_description == f"{shown}, experiment 'Default'"
    assert "geheim" not in repr(config)


def test_secrets_are_not_in_errors() -> None:
    with pytest.raises(ConfigurationError) as caught:
        MLflowDSPyConfig(tracking_uri="postgres://user:geheim@host/db", experiment_id="x")
    assert "geheim" not in str(caught.value)


def test_unknown_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"'max_batchsize'; did you mean 'max_batch_size'"):
        MLflowDSPyConfig(**{"max_batchsize": 5})
    with pytest.raises(ConfigurationError, match=r"there is no setting 'xyz'$"):
        MLflowDSPyConfig(**{"xyz": 5})


def test_an_id_of_an_experiment_may_be_an_integer() -> None:
    assert MLflowDSPyConfig.model_validate({"experiment_id": 7}).experiment_id == "7"
    with pytest.raises(ConfigurationError, match="MLFLOW_EXPERIMENT_ID"):
        MLflowDSPyConfig(**{"experiment_id": True})


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="exclude each other"):
        MLflowDSPyConfig(insecure_tls=True, server_cert_path=Path("/ca.pem"))


def test_write_ahead_needs_the_spool() -> None:
    with pytest.raises(ConfigurationError, match=r"MLFLOW_DSPY_WRITE_AHEAD .* needs"):
        MLflowDSPyConfig(write_ahead=True, spool=False)


def test_is_immutable() -> None:
    config = MLflowDSPyConfig(tracking_uri="http://host")
    with pytest.raises(ValidationError):
        config.tracking_uri = "http://other"


def test_configuration_error_is_a_value_error() -> None:
    assert issubclass(ConfigurationError, ValueError)


def test_a_path_through_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = MLflowDSPyConfig(tracking_uri="sqlite:///../x.db?timeout=5")
    assert config.tracking_uri == f"sqlite:///{os.path.dirname(tmp_path)}/x.db?timeout=5"


def test_the_settings_of_the_environment_are_those_without_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_DSPY_BUFFER_SIZE", "7")
    assert MLflowDSPyConfig.from_env() == MLflowDSPyConfig()
    assert MLflowDSPyConfig.from_env().trace_buffer_size == 7
    monkeypatch.setenv("MLFLOW_DSPY_BUFFER_SIZE", "many")
    with pytest.raises(ConfigurationError, match="MLFLOW_DSPY_BUFFER_SIZE"):
        MLflowDSPyConfig.from_env()


def test_every_setting_has_one_part_that_carries_it_out() -> None:
    groups = (PROCESSOR_FIELDS, SAMPLING_FIELDS, tuple(INSTRUMENT_ARGUMENTS))
    named = [name for group in groups for name in group]
    assert len(named) == len(set(named))
    assert set(named) < MLflowDSPyConfig.model_fields.keys()


def test_replace_keeps_what_is_set_and_reads_the_rest_again() -> None:
    config = MLflowDSPyConfig(tracking_uri="http://host", max_batch_size=5)
    other = config.replace(max_batch_size=6, traces="all")
    assert (other.tracking_uri, other.max_batch_size, other.traces) == ("http://host", 6, "all")
    assert config.max_batch_size == 5
    with pytest.raises(ConfigurationError, match="max_batchsize"):
        config.replace(max_batchsize=6)


def test_replacing_the_experiment_by_name_goes_before_its_id() -> None:
    config = MLflowDSPyConfig(experiment_id="7")
    assert config.replace(experiment_name="mine").effective_experiment_name == "mine"
    assert config.replace(max_batch_size=5).experiment_id == "7"


def test_an_error_knows_the_settings_that_it_is_about() -> None:
    with pytest.raises(ConfigurationError) as caught:
        MLflowDSPyConfig(max_batch_size=0, compression="brotli")
    assert caught.value.fields == ("compression", "max_batch_size")
    with pytest.raises(ConfigurationError) as caught:
        MLflowDSPyConfig(write_ahead=True, spool=False)
    assert caught.value.fields == ("write_ahead",)


GENAI = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.mark.parametrize(
    ("setting", "variable", "expected"),
    [
        (None, None, ContentMode.SPAN_ONLY),
        (None, "NO_CONTENT", ContentMode.NO_CONTENT),
        (None, "EVENT_ONLY", ContentMode.EVENT_ONLY),
        (None, "misspelt", ContentMode.NO_CONTENT),
        ("EVENT_ONLY", "NO_CONTENT", ContentMode.EVENT_ONLY),
        (False, None, ContentMode.NO_CONTENT),
        (True, "NO_CONTENT", ContentMode.SPAN_ONLY),
    ],
)
def test_content_is_recorded_unless_somebody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, setting: Any, variable: str | None, expected: ContentMode
) -> None:
    if variable is not None:
        monkeypatch.setenv(GENAI, variable)
    arguments = MLflowDSPyConfig(capture_content=setting).instrument_arguments()
    assert load_settings(**arguments).content_mode is expected


@pytest.mark.parametrize(
    ("variable", "settings", "expected"),
    [
        (None, {}, None),
        (None, {"log_evals": True}, "per_example"),
        (None, {"log_evals": True, "evaluation_traces": "tree"}, "tree"),
        ("tree", {"log_evals": True}, None),
        (" ", {"log_evals": True}, "per_example"),
    ],
)
def test_each_example_is_a_trace_where_evaluations_are_logged(
    monkeypatch: pytest.MonkeyPatch,
    variable: str | None,
    settings: dict[str, Any],
    expected: str | None,
) -> None:
    if variable is not None:
        monkeypatch.setenv("OTEL_INSTRUMENTATION_DSPY_EVALUATION_TRACES", variable)
    arguments = MLflowDSPyConfig(**settings).instrument_arguments()
    assert arguments.get("evaluation_traces") == expected


def test_settings_of_the_instrumentation_become_its_arguments() -> None:
    config = MLflowDSPyConfig(
        capture_content=True,
        log_inputs=False,
        log_outputs=False,
        log_signatures=False,
        log_intermediate_steps=False,
        adapter_steps="spans",
        resource_usage="all",
        evaluation_traces="per_example",
        max_content_length=100,
        redact=os.path.join,
        module_filter=["RAG", "Chat*"],
        trace_condition=os.path.join,
        input_sanitizer=os.path.split,
        output_sanitizer=os.path.splitext,
    )
    assert config.instrument_arguments() == {
        "capture_content": ContentMode.SPAN_ONLY,
        "capture_inputs": False,
        "capture_outputs": False,
        "capture_signatures": False,
        "capture_intermediate_steps": False,
        "adapter_steps": "spans",
        "resource_usage": "all",
        "evaluation_traces": "per_example",
        "max_content_length": 100,
        "redact": os.path.join,
        "module_filter": ["RAG", "Chat*"],
        "trace_condition": os.path.join,
        "input_sanitizer": os.path.split,
        "output_sanitizer": os.path.splitext,
    }
    assert MLflowDSPyConfig().instrument_arguments() == {"capture_content": ContentMode.SPAN_ONLY}
