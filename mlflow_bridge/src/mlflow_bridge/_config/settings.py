# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of the bridge: from arguments, then the environment, then defaults.

If MLflow has a variable for a setting, that variable is read, so that a program which already uses
MLflow needs no second configuration. Settings of the bridge alone have the prefix ``MLFLOW_DSPY_``.
"""

from __future__ import annotations

import logging
import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from mlflow_bridge._config.base import (
    ConfigurationError,
    ConflictingSettings,
    own_variable_of,
    report_once,
    values_by_name,
    values_of_own_variables,
    variable_of,
)
from mlflow_bridge._config.control import ControlSettings
from mlflow_bridge._config.http_headers import header_text, is_header_name
from mlflow_bridge._config.recording import INSTRUMENT_ARGUMENTS
from mlflow_bridge._config.tail import TAIL_FIELDS, TailSettings
from mlflow_bridge._config.tracking_uri import (
    DEFAULT_TRACKING_URI,
    InvalidTrackingURI,
    checked_tracking_uri,
    described_uri,
    is_address_in_use,
    secrets_of_uri,
)
from opentelemetry.instrumentation.dspy import ContentMode
from opentelemetry.instrumentation.dspy.environment_variables import (
    OTEL_INSTRUMENTATION_DSPY_EVALUATION_TRACES,
    OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT,
)

logger = logging.getLogger(__name__)

__all__ = [
    "INSTRUMENT_ARGUMENTS",
    "ConfigurationError",
    "MLflowDSPyConfig",
    "environment_variable",
]

_PROGRAM_HOOK: Final = "mlflow_bridge._spans.program_states:save_program"
"""By its place, since settings import nothing of the bridge."""

DEFAULT_EXPERIMENT_NAME: Final = "Default"

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
Volume = Literal["full", "summary", "off"]
Key = Literal["trace", "session", "user", "conversation", "inputs"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]

SAMPLING_FIELDS: Final = (
    "sampling_rate",
    "sampling_modules",
    "sampling_key",
    "sampling_optimizers",
    "sampling_evaluations",
    "sampling_summary_rate",
    "sampling_rate_of",
    "sampling_key_of",
)
"""The settings that a `DSPySampler` implements."""

PROCESSOR_FIELDS: Final = (
    "flush_on_sigterm",
    "max_queue_size",
    "max_queue_bytes",
    "overflow",
    "block_seconds",
    "max_spill_queue_size",
    "max_spill_queue_bytes",
    "custom_tags",
    "custom_metadata",
    "traces",
    "drop_asgi_io_spans",
    "max_batch_size",
    "schedule_delay_seconds",
    "trace_buffer_size",
    "spool",
    "spool_directory",
    "spool_max_bytes",
    "spool_max_age_seconds",
    "spool_fsync",
    "write_ahead",
    *TAIL_FIELDS,
)
"""The settings that an `MLflowBatchSpanProcessor` implements, and an exporter alone does not."""


def _mlflow(variable: str, default: Any, description: str, **constraints: Any) -> Any:
    """A field that MLflow's own environment variable sets."""
    return Field(
        default=default,
        validation_alias=AliasChoices(variable),
        description=description,
        **constraints,
    )


class MLflowDSPyConfig(ControlSettings, TailSettings):
    """Immutable settings: destination, delivery, spool, sampling and content of spans.

    Every field can be given as an argument or by an environment variable; the argument takes
    precedence. ``docs/configuration.md`` lists the variables, units and limits.

    Raises:
        ConfigurationError: A value is not accepted. The message names the environment variable,
            the argument and what is accepted.
    """

    tracking_uri: str = _mlflow(
        "MLFLOW_TRACKING_URI",
        DEFAULT_TRACKING_URI,
        "A SQL store (sqlite:///file.db, postgresql://..., mysql://..., mssql://...) or a "
        "tracking server (http://..., https://...). A relative SQLite path is taken from the "
        "working directory at construction.",
        repr=False,
        json_schema_extra={"secret": True},
    )
    experiment_name: str | None = _mlflow(
        "MLFLOW_EXPERIMENT_NAME",
        None,
        'Name of the experiment, created if absent; "Default" if no id is given either.',
        min_length=1,
        max_length=500,
    )
    experiment_id: str | None = _mlflow(
        "MLFLOW_EXPERIMENT_ID",
        None,
        "Id of the experiment, a number. The experiment must exist; the id takes precedence over a "
        "name. The variable is ignored if an argument names another address than MLflow uses.",
        pattern=r"^[0-9]{1,32}$",
    )

    tracking_username: str | None = _mlflow(
        "MLFLOW_TRACKING_USERNAME", None, "User name for basic authentication."
    )
    tracking_password: SecretStr | None = _mlflow(
        "MLFLOW_TRACKING_PASSWORD", None, "Password for basic authentication."
    )
    tracking_token: SecretStr | None = _mlflow(
        "MLFLOW_TRACKING_TOKEN",
        None,
        "Bearer token; user name and password take precedence over it.",
    )
    tracking_auth: str | None = _mlflow(
        "MLFLOW_TRACKING_AUTH",
        None,
        "Name of an MLflow request_auth_provider plugin that authenticates every request.",
    )
    insecure_tls: bool = _mlflow(
        "MLFLOW_TRACKING_INSECURE_TLS", False, "true or false: whether to skip TLS verification."
    )
    server_cert_path: Path | None = _mlflow(
        "MLFLOW_TRACKING_SERVER_CERT_PATH", None, "CA bundle (PEM) to verify the server with."
    )
    client_cert_path: Path | None = _mlflow(
        "MLFLOW_TRACKING_CLIENT_CERT_PATH", None, "Client certificate (PEM) with its key."
    )
    workspace: str | None = _mlflow(
        "MLFLOW_WORKSPACE", None, "Workspace of the tracking server, if it has workspaces."
    )

    headers: Annotated[dict[str, SecretStr], NoDecode] = Field(
        default={},
        description="Additional HTTP headers for the tracking server: name=value,name2=value2.",
    )
    compression: Literal["gzip", "none"] = Field(
        default="gzip", description="Encoding of requests to the tracking server: gzip or none."
    )
    request_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Longest wait for a response of the tracking server; more than 0, at most 3600 "
        "seconds. A server that has just started needs more than 10 seconds for its first write.",
    )
    exit_timeout_seconds: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="Longest wait of the program's exit for MLflow, 0 to 3600 seconds. A disk that "
        "has not taken all waiting spans by then has as long again. An import of MLflow "
        "that the first span has begun, for a SQL store, is waited for first.",
    )
    flush_on_sigterm: bool = Field(
        default=True,
        description="true or false: whether SIGTERM first delivers waiting spans, for up to "
        "exit_timeout_seconds, and then has its previous effect. A second SIGTERM has it at once.",
    )
    max_queue_size: int = Field(
        default=20_000,
        ge=1,
        le=10_000_000,
        description="Largest number of ended spans in memory, 1 to 10000000.",
    )
    max_queue_bytes: int = Field(
        default=268_435_456,
        ge=1_048_576,
        le=1_099_511_627_776,
        description="Largest size of these spans in bytes, approximately, 1048576 to "
        "1099511627776.",
    )
    overflow: Literal["spill", "block"] = Field(
        default="spill",
        description="What happens when max_queue_size spans wait. spill: further spans go to the "
        "spool; block: the thread that ends a span first waits for a free slot, unless it runs an "
        "event loop.",
    )
    block_seconds: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="Longest wait for a free slot with overflow=block or without a spool, 0 to "
        "3600 seconds. Otherwise a thread waits for at most 0.04 seconds, and only if the disk is "
        "too slow. 0 never waits.",
    )
    max_spill_queue_size: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Spans held in memory while they wait for the disk, 1 to 10000000, in addition "
        "to max_queue_size.",
    )
    max_spill_queue_bytes: int = Field(
        default=268_435_456,
        ge=1_048_576,
        le=1_099_511_627_776,
        description="Largest size of these spans in bytes, approximately, 1048576 to "
        "1099511627776, in addition to max_queue_bytes.",
    )
    traces: Literal["genai", "all"] = Field(
        default="genai",
        description="Which traces go to MLflow. genai: traces with a DSPy or GenAI span; all: "
        "every sampled trace.",
    )
    custom_tags: Annotated[dict[str, str], NoDecode] = _mlflow(
        "MLFLOW_DSPY_TAGS",
        {},
        "Tags of every trace: name=value,name2=value2. A tag of the program with the same name "
        "takes precedence.",
        json_schema_extra={"secret": True},
    )
    custom_metadata: Annotated[dict[str, str], NoDecode] = Field(
        default={},
        description="Metadata of every trace: name=value,name2=value2. It is written together "
        "with the spans. Metadata of the program with the same name takes precedence.",
        json_schema_extra={"secret": True},
    )
    trace_metadata: Literal["auto", "full", "off"] = Field(
        default="auto",
        description="When a trace gets the metadata that MLflow takes only in a write of its own: "
        "user, program, commit, run, sizes. auto: when no span waits; full: together with its "
        "spans; off: never. Metadata and models of the program are written in any case.",
    )
    program_tags: bool = Field(
        default=True,
        description="true or false: whether traces have the tags dspy.program.hash and "
        "dspy.version of their program. MLflow's charts and metrics filter by tags.",
    )
    drop_asgi_io_spans: bool = Field(
        default=True,
        description="true or false: whether childless spans of single ASGI messages, such as "
        "'http send', are left out of what goes to MLflow. A stream has one for each chunk.",
    )
    max_batch_size: int = Field(
        default=512,
        ge=1,
        le=100_000,
        description="Largest number of spans in one write, 1 to 100000.",
    )
    max_batch_bytes: int = Field(
        default=16_777_216,
        ge=65_536,
        le=1_073_741_824,
        description="Approximate size of the attributes in one write, 64 KiB to 1 GiB.",
    )
    schedule_delay_seconds: float = Field(
        default=2.0,
        gt=0,
        le=3600,
        description="Longest time that an ended span waits for its batch to fill; more than 0, at "
        "most 3600 seconds.",
    )
    max_attribute_bytes: int = Field(
        default=1_048_576,
        ge=1024,
        le=268_435_456,
        description="Longest attribute value stored in MLflow, 1 KiB to 256 MiB; longer text is "
        "cut, and JSON stays valid.",
    )

    spool: bool = Field(
        default=True,
        description="true or false: whether spans that MLflow cannot take now are kept on disk, "
        "and delivered later or by the next process. Needs the file locks of a POSIX system.",
    )
    spool_directory: Path | None = Field(
        default=None,
        description="Directory of the spool, with a subdirectory for each destination; by default "
        "mlflow-bridge/spool in $XDG_STATE_HOME or ~/.local/state. It must be on a local disk; "
        "several processes may share it.",
    )
    spool_max_bytes: int = Field(
        default=536_870_912,
        ge=65_536,
        le=1_099_511_627_776,
        description="Largest size of the spool of one destination, 64 KiB to 1 TiB; at this limit "
        "the oldest file is dropped, and its spans are counted.",
    )
    spool_max_age_seconds: float = Field(
        default=604_800.0,
        gt=0,
        le=31_536_000,
        description="Age at which spans in the spool are dropped and counted; more than 0, at most "
        "31536000 seconds.",
    )
    spool_fsync: Literal["never", "batch"] = Field(
        default="never",
        description="What spans in the spool survive. never: the end of the process, in any way; "
        "batch: also a crash of the machine, at the cost of some milliseconds per batch.",
    )
    write_ahead: bool = Field(
        default=False,
        description="true or false: whether every span is on disk before it is sent, so that "
        "SIGKILL loses no ended span. The thread that ends a span writes it. Needs the spool.",
    )

    sampling_rate: Share = Field(
        default=1.0,
        description="Share of traces that are recorded, each with all of its spans, 0 to 1.",
    )
    sampling_modules: Annotated[dict[str, Share], NoDecode] = Field(
        default={},
        description="Shares for single programs, by the class of the outermost module; they "
        "replace sampling_rate: RAG=1,Chat=0.05.",
    )
    sampling_key: Key = Field(
        default="trace",
        description="The sampling key. trace: each trace by itself; session, user or conversation: "
        "all traces with the same id together; inputs: all calls with equal arguments together. A "
        "trace without such a key is sampled by itself.",
    )
    sampling_optimizers: Volume = Field(
        default="full",
        description="What is recorded of an optimizer's run, at any sampling_rate. full: every "
        "span; summary: the run, its evaluations, and a share of the calls in them; off: no span.",
    )
    sampling_evaluations: Volume = Field(
        default="full",
        description="What is recorded of an evaluation that no optimizer started. full: every "
        "span; summary: the evaluation and a share of its examples; off: no span.",
    )
    sampling_summary_rate: Share = Field(
        default=0.05,
        description="Share of examples, and of other calls of an optimizer, in a summary, each "
        "with all of its spans, 0 to 1.",
    )

    log_level: LogLevel | None = Field(
        default=None,
        description="Level of the loggers mlflow_bridge and opentelemetry.instrumentation.dspy: "
        "DEBUG, INFO, WARNING, ERROR or CRITICAL. The default leaves the levels as they are.",
    )

    if not TYPE_CHECKING:  # so that type checkers see the fields as arguments

        def __init__(self, **values):
            values = values_of_own_variables(type(self), values)
            of_environment = "experiment_id" not in values
            ignored = None
            if of_environment and "experiment_name" in values:
                # An id takes precedence over a name, but an argument over the environment.
                values["experiment_id"] = None
            elif of_environment and (ignored := _ignored_experiment_id(values)):
                values["experiment_id"] = None
            super().__init__(**values)
            if of_environment:
                # So that a copy with another address decides again.
                self.model_fields_set.discard("experiment_id")
            if ignored is not None:
                _report_ignored_experiment_id(ignored, self)

    @field_validator("tracking_uri")
    @classmethod
    def _check_tracking_uri(cls, value: str) -> str:
        try:
            return checked_tracking_uri(value)
        except InvalidTrackingURI as error:
            raise ValueError(str(error)) from None

    @field_validator("headers", "sampling_modules", mode="before")
    @classmethod
    def _parse_pairs(cls, value: Any) -> Any:
        return values_by_name(value) if isinstance(value, str) else value

    @field_validator("custom_tags", "custom_metadata", mode="before")
    @classmethod
    def _parse_texts(cls, value: Any) -> Any:
        pairs = values_by_name(value) if isinstance(value, str) else value
        if not isinstance(pairs, Mapping):
            return pairs
        items = cast("Mapping[Any, Any]", pairs).items()
        return {str(key): str(item) for key, item in items}

    @field_validator("log_level", mode="before")
    @classmethod
    def _parse_log_level(cls, value: Any) -> Any:
        return value.strip().upper() if isinstance(value, str) else value

    @field_validator("experiment_id", mode="before")
    @classmethod
    def _parse_experiment_id(cls, value: Any) -> Any:
        # YAML reads an id without quotation marks as an integer.
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        if not all(is_header_name(name) for name in headers):
            raise ValueError("a name has characters that the name of an HTTP header cannot have")
        return {name: _secret_header_text(value) for name, value in headers.items()}

    @field_validator("tracking_token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        return None if token is None else _secret_header_text(token)

    @field_validator("tracking_password")
    @classmethod
    def _check_password(cls, password: SecretStr | None) -> SecretStr | None:
        # A secret that is read from a file often ends with a line break.
        return None if password is None else SecretStr(password.get_secret_value().rstrip("\r\n"))

    @field_validator("tracking_username")
    @classmethod
    def _check_username(cls, name: str | None) -> str | None:
        return None if name is None else name.rstrip("\r\n")

    @field_validator("workspace")
    @classmethod
    def _check_workspace(cls, name: str | None) -> str | None:
        return None if name is None else header_text(name)

    @model_validator(mode="after")
    def _check_combinations(self) -> MLflowDSPyConfig:
        if self.insecure_tls and self.server_cert_path is not None:
            raise ConflictingSettings(
                "MLFLOW_TRACKING_INSECURE_TLS (argument insecure_tls) and "
                "MLFLOW_TRACKING_SERVER_CERT_PATH (argument server_cert_path) exclude each other",
                fields=("insecure_tls", "server_cert_path"),
            )
        if self.write_ahead and not self.spool:
            raise ConflictingSettings(
                "MLFLOW_DSPY_WRITE_AHEAD (argument write_ahead) needs "
                "MLFLOW_DSPY_SPOOL (argument spool)",
                fields=("write_ahead",),
            )
        if self.experiment_id is not None and self.experiment_name is not None:
            logger.warning(
                "Both MLFLOW_EXPERIMENT_ID (%s) and MLFLOW_EXPERIMENT_NAME (%s) are set: traces "
                "go to the experiment with the id.",
                self.experiment_id,
                self.experiment_name,
            )
        return self

    def replace(self, **overrides: Any) -> MLflowDSPyConfig:
        """A copy of these settings with other values for some fields.

        Args:
            **overrides: Settings by name.

        Raises:
            ConfigurationError: A value is not accepted, or there is no such setting.
        """
        given = {name: getattr(self, name) for name in self.model_fields_set}
        chooses = overrides.keys() & {"experiment_name", "experiment_id", "tracking_uri"}
        if "experiment_name" in overrides:
            given.pop("experiment_id", None)
        elif not chooses:
            overrides["experiment_id"] = self.experiment_id
        copy = MLflowDSPyConfig(**{**given, **overrides})
        if not chooses and "experiment_id" not in given:
            copy.model_fields_set.discard("experiment_id")
        return copy

    def instrument_arguments(self) -> dict[str, Any]:
        """The arguments of ``DSPyInstrumentor().instrument()`` that apply these settings.

        Content is recorded on spans by default, since a trace in MLflow is of little use without
        inputs and outputs. A setting or environment variable can change this.

        Example:
            >>> DSPyInstrumentor().instrument(**config.instrument_arguments())  # doctest: +SKIP
        """
        settings = {name: getattr(self, field) for field, name in INSTRUMENT_ARGUMENTS.items()}
        given = {name: value for name, value in settings.items() if value is not None}
        if not _is_set(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT):
            given.setdefault("capture_content", ContentMode.SPAN_ONLY)
        if self.log_evals and not _is_set(OTEL_INSTRUMENTATION_DSPY_EVALUATION_TRACES):
            given.setdefault("evaluation_traces", "per_example")
        if self.saves_programs:
            given["program_hook"] = _PROGRAM_HOOK
        return given

    @property
    def saves_programs(self) -> bool:
        """Whether the state of each new program is saved in MLflow."""
        if self.save_programs is None:
            return self.log_evals or self.log_compiles
        return self.save_programs

    @property
    def effective_experiment_name(self) -> str | None:
        """Name of the experiment; ``None`` if the experiment is chosen by id."""
        if self.experiment_id is not None:
            return None
        return self.experiment_name or DEFAULT_EXPERIMENT_NAME

    @property
    def is_server(self) -> bool:
        """Whether spans go to a tracking server, not to a SQL store."""
        return self.tracking_uri.startswith(("http://", "https://"))

    @property
    def destination_description(self) -> str:
        """Human-readable destination, without credentials."""
        if self.experiment_id is not None:
            return f"{described_uri(self.tracking_uri)}, experiment id {self.experiment_id}"
        name = self.effective_experiment_name
        return f"{described_uri(self.tracking_uri)}, experiment {name!r}"


def environment_variable(field_name: str) -> str:
    """The environment variable that sets a field of `MLflowDSPyConfig`."""
    return variable_of(MLflowDSPyConfig, field_name)


def own_variable(field_name: str) -> str:
    """The variable of the bridge that sets a field, which takes precedence over MLflow's."""
    return own_variable_of(MLflowDSPyConfig, field_name)


def _is_set(variable: str) -> bool:
    return bool(os.environ.get(variable, "").strip())


def secrets_of(config: MLflowDSPyConfig) -> frozenset[str]:
    """The texts that no log line may show: credentials, as written, decoded and encoded."""
    secret = [config.tracking_password, config.tracking_token, *config.headers.values()]
    texts = {value.get_secret_value() for value in secret if value is not None}
    # The credentials of a header come after the name of their scheme.
    texts |= {text.rpartition(" ")[2] for text in texts}
    texts |= {quote(text, safe="") for text in texts}
    if config.tracking_username and config.tracking_password:
        pair = f"{config.tracking_username}:{config.tracking_password.get_secret_value()}"
        texts.add(b64encode(pair.encode()).decode())
    return frozenset(texts | secrets_of_uri(config.tracking_uri))


def _ignored_experiment_id(arguments: Mapping[str, Any]) -> str | None:
    """The value of MLFLOW_EXPERIMENT_ID if it belongs to another address than the argument's.

    ``mlflow.set_experiment`` sets it to a number that means another experiment elsewhere.
    """
    found = os.environ.get("MLFLOW_EXPERIMENT_ID", "").strip()
    uri = arguments.get("tracking_uri")
    if not found or not isinstance(uri, str) or is_address_in_use(uri):
        return None
    return found


def _report_ignored_experiment_id(ignored: str, config: MLflowDSPyConfig) -> None:
    report_once(
        f"MLFLOW_EXPERIMENT_ID ({ignored[:32]!r}) is ignored: it was set for another address than "
        f"{described_uri(config.tracking_uri)}, where the number may mean another experiment. "
        f"Traces go to the experiment {config.effective_experiment_name!r}. To choose one, give "
        "experiment_name or experiment_id together with tracking_uri."
    )


def _secret_header_text(secret: SecretStr) -> SecretStr:
    return SecretStr(header_text(secret.get_secret_value()))
