# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The settings of tail sampling, which traces go to MLflow of those that have ended."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from mlflow_bridge._config.base import EnvironmentSettings, values_by_name
from mlflow_bridge._config.functions import checked_function

_Score = Annotated[float, Field(allow_inf_nan=False)]


class TailSettings(EnvironmentSettings):
    """Immutable settings of tail sampling; a part of `MLflowDSPyConfig`.

    Raises:
        ConfigurationError: A value is not accepted.
    """

    tail_rate: float = Field(
        default=1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the traces that goes to MLflow if no rule of tail sampling keeps "
        "them, 0 to 1.",
    )
    tail_keep_errors: bool = Field(
        default=True,
        description="true or false: whether tail sampling keeps traces in which a span failed.",
    )
    tail_slower_than_seconds: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Tail sampling keeps traces whose root took longer, 0 seconds or more.",
    )
    tail_cost_above_usd: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Tail sampling keeps traces whose known cost is higher, 0 US dollars or more.",
    )
    tail_tokens_above: int | None = Field(
        default=None,
        ge=0,
        description="Tail sampling keeps traces that used more tokens, 0 or more.",
    )
    tail_score_below: Annotated[dict[str, _Score], NoDecode] = Field(
        default={},
        description="Tail sampling keeps traces with a score below a threshold, by the name of the "
        "metric: correctness=0.5,toxicity=0.1.",
    )
    tail_parse_failures: bool = Field(
        default=False,
        description="true or false: whether tail sampling keeps traces in which an adapter could "
        "not parse a response.",
    )
    tail_new_program_first: int | None = Field(
        default=None,
        ge=1,
        description="Tail sampling keeps this number of first traces of each program in a process, "
        "1 or more.",
    )
    tail_agent_exhausted: bool = Field(
        default=False,
        description="true or false: whether tail sampling keeps traces in which an agent ended "
        "without finishing.",
    )
    tail_predicate: Any = Field(
        default=None,
        description="Tail sampling keeps traces for which this function of a FinishedTrace returns "
        "a true value (as text package.module:function).",
    )
    tail_grace_seconds: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="How long a complete trace waits for a score of tail_score_below, 0 to 3600 "
        "seconds.",
    )

    @field_validator("tail_score_below", mode="before")
    @classmethod
    def _parse_scores(cls, value: Any) -> Any:
        return values_by_name(value) if isinstance(value, str) else value

    @field_validator("tail_predicate")
    @classmethod
    def _load_predicate(cls, value: Any) -> Any:
        return None if value is None else checked_function("tail_predicate", value)


TAIL_FIELDS: Final = tuple(TailSettings.model_fields)
"""The settings of tail sampling."""
