# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Diagnostics: checks whether traces of this program reach MLflow, and what prevents it.

Only the standard library is imported before the first call.
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
    """Result of one check.

    Attributes:
        name: Subject of the check: settings, versions, exporters, instrumentation, sampling,
            provider, spool, destination, experiment, round trip, delivery.
        state: ``ok``; ``warn`` if tracing works only in part; ``fail`` if no trace arrives.
        detail: The finding and the next step; without secrets.
    """

    name: str
    state: State
    detail: str


@dataclass(frozen=True)
class DoctorReport:
    """All checks in the order in which they were made; ``str(report)`` is a table."""

    checks: tuple[Check, ...]

    @property
    def state(self) -> State:
        """The worst state of all checks; ``ok`` if there are none."""
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

    Sends one trace named ``mlflow_bridge doctor``, reads it back, and deletes it. If the deletion
    is not allowed, the trace can be found by its tag ``mlflow_bridge.doctor``. An absent experiment
    is created, as by the first trace of a program. The duration depends on MLflow's responses, and
    is at most a few times ``request_timeout_seconds``.

    Args:
        tracking_uri: Overrides MLFLOW_TRACKING_URI.
        experiment_name: Overrides MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID.
        config: All settings; takes precedence over the other arguments.
        send: Whether to connect to the store or server and send a trace.

    Returns:
        The report of all checks; its ``state`` is the worst of their states.

    Example:
        >>> print(mlflow_bridge.doctor())  # doctest: +SKIP
    """
    from mlflow_bridge._setup.doctor.checks import examine

    return DoctorReport(tuple(examine(tracking_uri, experiment_name, config, send=send)))
