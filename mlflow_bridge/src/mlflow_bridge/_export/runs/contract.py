# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Interface of the part of a destination that has runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from mlflow_bridge._export.contract import Rejected, Retry

RUN_KEY_TAG: Final = "mlflow_bridge.run_key"
"""Tag of a run: the span id of its evaluation or optimizer, by which the run is found again."""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that may have to be made.

    Attributes:
        key: Identifies the run among those of the bridge; the value of the tag `RUN_KEY_TAG`.
        name: Its name.
        experiment_id: The experiment; None for the configured experiment.
        start_ms: Its start, in milliseconds since 1970.
        tags: Its tags, with the key.
    """

    key: str
    name: str
    experiment_id: str | None
    start_ms: int
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


PROGRAMS_RUN: Final = "dspy-programs"
"""Key and name of the run of an experiment that has its programs as artifacts."""


def programs_run(experiment_id: str | None) -> NewRun:
    """The run of an experiment that has its programs as artifacts."""
    tags = {RUN_KEY_TAG: PROGRAMS_RUN}
    return NewRun(PROGRAMS_RUN, PROGRAMS_RUN, experiment_id, time.time_ns() // 1_000_000, tags)


def program_artifact(digest: str) -> str:
    """The path of the artifact with the program that has a hash."""
    return f"dspy/programs/{digest}.json"


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Parameters, metrics and state of a run at its end.

    Attributes:
        parameters: Parameters by name.
        metrics: Metrics by name. Times are in seconds, costs in USD.
        status: ``FINISHED``, ``FAILED`` or ``KILLED``.
        end_ms: The end, in milliseconds since 1970.
    """

    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    status: str = "FINISHED"
    end_ms: int = 0


@dataclass(frozen=True, slots=True)
class RunStep:
    """Metrics of one step of a run, such as the trial of an optimizer.

    Attributes:
        number: The number of the step, from 0.
        metrics: Metrics by name.
        time_ms: The time of the step, in milliseconds since 1970.
    """

    number: int
    metrics: Mapping[str, float]
    time_ms: int


class RunStore(Protocol):
    """The part of a destination that has runs. Used by one thread at a time."""

    def begin_run(self, run: NewRun) -> str | Retry | Rejected:
        """Find the run with this key, or make it, and return its id."""
        ...

    def log_step(self, run_id: str, step: RunStep) -> Retry | Rejected | None:
        """Write the metrics of one step of a run. May be repeated."""
        ...

    def end_run(self, run_id: str, figures: RunFigures) -> Retry | Rejected | None:
        """Write parameters and metrics of a run, and end it. May be repeated."""
        ...
