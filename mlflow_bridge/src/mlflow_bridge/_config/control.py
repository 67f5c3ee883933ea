# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings by which a program controls the bridge: on or off, how early, and by functions."""

from __future__ import annotations

from typing import Any, Final

from pydantic import AliasChoices, Field, ValidationInfo, field_validator
from typing_extensions import Self

from mlflow_bridge._config.functions import checked_function
from mlflow_bridge._config.recording import RecordingSettings

_SWITCHES: Final = ("enabled", "log_evals", "log_compiles", "register_prompts")


class ControlSettings(RecordingSettings):
    """Immutable settings of whether and when something happens; a part of `MLflowDSPyConfig`.

    Raises:
        ConfigurationError: A value is not accepted.
    """

    enabled: bool = Field(
        default=True,
        description="true or false: whether the bridge does anything. With false, autolog() "
        "instruments nothing and makes no tracer provider; at run time, traces that begin later "
        "are left out.",
    )
    trace_buffer_size: int = Field(
        default=100,
        ge=1,
        le=1_000_000,
        validation_alias=AliasChoices("MLFLOW_DSPY_BUFFER_SIZE"),
        description="Finished traces that may wait for a write, 1 to 1000000. When this many local "
        "roots have ended, a write begins at once, before schedule_delay_seconds.",
    )
    sampling_rate_of: Any = Field(
        default=None,
        description="Function (as text package.module:function) of the DSPy call that begins a "
        "trace; it returns the share of such calls to record, 0 to 1, or None for sampling_modules "
        "and sampling_rate.",
    )
    sampling_key_of: Any = Field(
        default=None,
        description="Function (as text package.module:function) of the DSPy call that begins a "
        "trace; it returns the key of sampling in place of sampling_key.",
    )
    log_evals: bool = Field(
        default=False,
        description="true or false: whether each dspy.Evaluate is a run in MLflow with its scores, "
        "and each example a trace with assessments (evaluation_traces).",
    )
    log_compiles: bool = Field(
        default=False,
        description="true or false: whether each compile of an optimizer is a run in MLflow; with "
        "log_evals, its evaluations are runs below it.",
    )
    save_programs: bool | None = Field(
        default=None,
        description="true or false: whether the state of each new program is saved in MLflow, for "
        "program_of(). It is content. The default is true with log_evals or log_compiles, else "
        "false.",
    )
    register_prompts: bool = Field(
        default=False,
        description="true or false: whether the prompts of programs are registered in MLflow. It "
        "is accepted, and has no effect yet.",
    )

    @classmethod
    def from_env(cls) -> Self:
        """The settings of the environment, as the constructor without arguments.

        Raises:
            ConfigurationError: A variable has a value that is not accepted.

        Example:
            >>> config = MLflowDSPyConfig.from_env()  # doctest: +SKIP
        """
        return cls()

    @field_validator(*_SWITCHES, mode="before")
    @classmethod
    def _check_switch(cls, value: Any) -> Any:
        # Pydantic takes 1 and 0.0 for truth values; in code, they are a mistake.
        return value if isinstance(value, (bool, str)) else _Another(value)

    @field_validator("save_programs", mode="before")
    @classmethod
    def _check_optional_switch(cls, value: Any) -> Any:
        return value if value is None or isinstance(value, (bool, str)) else _Another(value)

    @field_validator("trace_buffer_size", mode="before")
    @classmethod
    def _check_number(cls, value: Any) -> Any:
        is_number = isinstance(value, (int, str)) and not isinstance(value, bool)
        return value if is_number else _Another(value)

    @field_validator("sampling_rate_of", "sampling_key_of")
    @classmethod
    def _load_sampling_function(cls, value: Any, info: ValidationInfo) -> Any:
        return None if value is None else checked_function(str(info.field_name), value)


class _Another:
    """A value of another type, which no field accepts; shown as it was given."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return repr(self._value)
