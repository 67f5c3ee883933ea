# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Tail sampling: which of the recorded traces go to MLflow, decided when they have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from mlflow_bridge._config.base import ConfigurationError
from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._config.tail import TAIL_FIELDS
from mlflow_bridge.sampling.rules import (
    KeepRule,
    agent_exhausted,
    cost_above,
    errors,
    new_program,
    parse_failures,
    predicate,
    score_below,
    slower_than,
    tokens_above,
)


@dataclass(frozen=True)
class TailSampling:
    """Which traces go to MLflow: those that a rule keeps, and a share of all others.

    A trace is decided when its local root and all of its spans in this process have ended, and the
    decision holds for the whole trace. Spans that end later follow it. A trace with an evaluation
    or an optimizer is always kept.

    Other exporters of the tracer provider are not affected, and get every span that its sampler
    records. Its share and ``rate`` do not multiply: both keep the same traces, so the smaller share
    counts.

    A kept trace gets the tags ``dspy.sampling.reason``, which is the reason of the first rule that
    keeps the trace, ``evaluation`` or ``rate``, and ``dspy.sampling.weight``: 1 divided by the
    probability that such a trace is in MLflow. Sums over traces times their weights are unbiased.

    The decision is taken in each process by itself. Of a trace that goes through several services,
    ``rate`` keeps all parts or none; a rule keeps the part of its own process.

    Args:
        keep: Rules from `mlflow_bridge.sampling`, the most important first.
        rate: Share of the other traces, 0 to 1.
        grace_seconds: How long a complete trace waits for a late score if a `score_below` rule has
            none, 0 to 3600 seconds. A flush, and the end of the process, end the wait.

    Raises:
        ConfigurationError: A value is not accepted.

    Example:
        >>> TailSampling(keep=[errors(), slower_than(seconds=5)], rate=0.01)
        TailSampling(keep=(Errors('error'), SlowerThan('slow')), rate=0.01, grace_seconds=30.0)
    """

    keep: Sequence[KeepRule] = ()
    rate: float = 1.0
    grace_seconds: float = 30.0

    def __post_init__(self) -> None:
        given: Any = self.keep
        is_list = isinstance(given, (list, tuple))
        rules = [*cast("Sequence[Any]", given)] if is_list else [None]
        if not all(isinstance(rule, KeepRule) for rule in rules):
            raise ConfigurationError(
                f"keep is {given!r}; accepted: a list of rules, such as "
                "mlflow_bridge.sampling.errors()"
            )
        object.__setattr__(self, "keep", tuple(self.keep))
        _check("rate", self.rate, most=1.0)
        _check("grace_seconds", self.grace_seconds, most=3600.0)

    def description(self) -> str:
        """The reasons of the rules, and the rate, as one line."""
        kept = ", ".join(rule.reason for rule in self.keep) or "no rule"
        return f"tail sampling by {kept}, rate {self.rate:g}"

    @classmethod
    def from_config(cls, config: MLflowDSPyConfig) -> TailSampling | None:
        """The tail sampling of these settings; None if no setting of it is given.

        Args:
            config: The settings, of which those with the prefix ``tail_`` are used.
        """
        if not any(
            getattr(config, name) != type(config).model_fields[name].default for name in TAIL_FIELDS
        ):
            return None
        return cls(_rules_of(config), config.tail_rate, config.tail_grace_seconds)


def _check(name: str, value: Any, *, most: float) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= most:
        raise ConfigurationError(f"{name} is {value!r}; accepted: a number, 0 to {most:g}")


def _rules_of(config: MLflowDSPyConfig) -> list[KeepRule]:
    rules: list[KeepRule] = []
    if config.tail_keep_errors:
        rules.append(errors())
    if config.tail_agent_exhausted:
        rules.append(agent_exhausted())
    if config.tail_parse_failures:
        rules.append(parse_failures())
    rules += [score_below(metric, limit) for metric, limit in config.tail_score_below.items()]
    if config.tail_cost_above_usd is not None:
        rules.append(cost_above(usd=config.tail_cost_above_usd))
    if config.tail_tokens_above is not None:
        rules.append(tokens_above(config.tail_tokens_above))
    if config.tail_slower_than_seconds is not None:
        rules.append(slower_than(seconds=config.tail_slower_than_seconds))
    if config.tail_new_program_first is not None:
        rules.append(new_program(first=config.tail_new_program_first))
    if config.tail_predicate is not None:
        rules.append(predicate(config.tail_predicate))
    return rules
