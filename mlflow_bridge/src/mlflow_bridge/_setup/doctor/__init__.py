# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What stands between this program and its traces in MLflow: one check for each thing.

Nothing but the standard library is imported before the first call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from mlflow_bridge._config.settings import MLflowDSPyConfig

State = Literal["ok", "warn", "fail"]

_WORST_FIRST: Final[tuple[State, ...]] = ("fail", "warn", "ok")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What: settings, versions, instrumentation, sampling, provider, spool, destination,
            experiment, round trip, delivery.
        state: ``ok``; ``warn`` where traces arrive, but not as they might; ``fail`` where not.
        detail: What was found, and what to do about it; without secrets.
    """

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class DoctorReport:
    """All checks, in the order in which they were made. ``str()`` of it is a table."""

    checks: tuple[Check, ...]

    @property
    def state(self) -> State:
        """The worst of them."""
        found = {check.state for check in self.checks}
        for state in _WORST_FIRST:
            if state in found:
                return state
        return "ok"

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        return "\n".join(
            f"{check.state:<4}  {check.name:<{width}}  {check.detail}" for check in self.checks
        )


def doctor(
    tracking_uri: str | None = None,
    experiment_name: str | None = None,
    *,
    config: MLflowDSPyConfig | None = None,
    send: bool = True,
) -> DoctorReport:
    """Check settings, versions, patch points, MLflow, experiment and spool. Never raises.

    Sends one trace named ``mlflow_bridge doctor``, reads it back, and deletes it; it has the tag
    ``mlflow_bridge.doctor``, by which it is found should the deletion not be allowed. An experiment
    that is absent is created, as it would be by the first trace. Takes as long as MLflow takes to
    answer, at most some multiple of ``request_timeout_seconds``.

    Args:
        tracking_uri: Overrides MLFLOW_TRACKING_URI.
        experiment_name: Overrides MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID.
        config: All settings; wins over the other arguments.
        send: Whether to send a trace, and to open the store or meet the server at all.

    Example:
        >>> print(mlflow_bridge.doctor())  # doctest: +SKIP
    """
    from mlflow_bridge._setup.doctor.checks import examine

    return DoctorReport(tuple(examine(tracking_uri, experiment_name, config, send=send)))
