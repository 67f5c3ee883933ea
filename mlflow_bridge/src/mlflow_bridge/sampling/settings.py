# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of the sampler."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from mlflow_bridge.environment_settings import (
    ENVIRONMENT_PREFIX,
    EnvironmentSettings,
    values_by_name,
    variable_of,
)

Volume = Literal["full", "summary", "off"]
Key = Literal["trace", "session", "user", "conversation", "inputs"]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class SamplingSettings(EnvironmentSettings):
    """Which traces are recorded; immutable.

    Every field can be given as an argument or by an environment variable, ``ratio`` by
    ``MLFLOW_DSPY_SAMPLING_RATIO``; the argument wins.

    Raises:
        ConfigurationError: A value is not accepted. The message names the environment variable,
            the argument and what is accepted.
    """

    model_config = SettingsConfigDict(env_prefix=f"{ENVIRONMENT_PREFIX}SAMPLING_")

    ratio: Share = Field(
        default=1.0,
        description="The share of traces that is recorded, each of them whole, 0 to 1.",
    )
    modules: Annotated[dict[str, Share], NoDecode] = Field(
        default={},
        description="Shares for some programs, by the class of the outermost module, instead of "
        "ratio: RAG=1,Chat=0.05.",
    )
    key: Key = Field(
        default="trace",
        description="What the choice is made by: trace, each for itself; session, user or "
        "conversation, all traces of one or none; inputs, all calls with the same arguments or "
        "none. Where a trace has no such key, it is chosen for itself.",
    )
    optimizers: Volume = Field(
        default="full",
        description="What is recorded of an optimizer's run, whatever the ratio: full, all of it; "
        "summary, the run and its evaluations, with a share of what is in them; off, nothing.",
    )
    evaluations: Volume = Field(
        default="full",
        description="The same of an evaluation outside of an optimizer: full; summary, the "
        "evaluation with a share of its examples; off, nothing.",
    )
    summary_ratio: Share = Field(
        default=0.05,
        description="The share of examples, and of what else an optimizer calls, that a summary "
        "has, each whole, 0 to 1.",
    )

    @field_validator("modules", mode="before")
    @classmethod
    def _parse_modules(cls, value: Any) -> Any:
        return values_by_name(value) if isinstance(value, str) else value


def sampling_variable(field_name: str) -> str:
    """The environment variable that sets a field of `SamplingSettings`."""
    return variable_of(SamplingSettings, field_name)
