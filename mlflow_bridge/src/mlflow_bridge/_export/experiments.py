# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Look-up of experiments before spans are written to them.

MLflow accepts spans for a deleted experiment without an error, but never shows them. So each
experiment is looked up before the first write, and again every 60 seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Rejected, Retry

_SETTINGS: Final = "MLFLOW_EXPERIMENT_NAME, MLFLOW_EXPERIMENT_ID"
_VALID_SECONDS: Final = 60.0
# Limits the memory of a program that has an experiment for each of its users.
_MAX_KNOWN: Final = 1024


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment as MLflow describes it."""

    experiment_id: str
    name: str
    active: bool


Found = Experiment | Retry | None
"""``None`` if there is no such experiment; `Retry` if the look-up failed."""


class ExperimentDirectory(Protocol):
    """Interface by which a destination looks experiments up. Its methods do not raise."""

    def by_id(self, experiment_id: str) -> Found: ...

    def by_name(self, name: str) -> Found: ...

    def create(self, name: str) -> Found:
        """Create the experiment, unless another process has just created it, and return it."""
        ...


class Experiments:
    """Cache of the ids of experiments that can be written to. Used by one thread at a time.

    Args:
        config: The settings, with the experiment for spans that do not name an experiment.
        directory: The experiments of the destination.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self,
        config: MLflowDSPyConfig,
        directory: ExperimentDirectory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._directory = directory
        self._clock = clock
        # By the id that spans name, or None for the configured experiment: id and expiry time.
        self._known: dict[str | None, tuple[str, float]] = {}

    def resolve(self, named: str | None) -> str | Retry | Rejected:
        """The id of the experiment for a batch.

        Args:
            named: The id that the spans name; ``None`` for the configured experiment.

        Returns:
            The id; `Rejected` if the spans name an experiment that cannot be written to; `Retry`
            if the look-up failed, or the configured experiment cannot be written to, which a user
            can fix.
        """
        known = self._known.get(named)
        if known is not None and self._clock() < known[1]:
            return known[0]
        if named is not None and not (named.isascii() and named.isdigit()):
            # A server answers with an error that may pass, so the spans would be sent for ever.
            return Rejected(
                "the experiment named by the spans has an id that is not a number "
                f"(mlflow.experimentId): {named[:40]!r}",
                divisible=False,
            )
        found = self._configured() if named is None else self._directory.by_id(named)
        if isinstance(found, Retry):
            return found
        if isinstance(found, Experiment) and found.active:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[named] = (found.experiment_id, self._clock() + _VALID_SECONDS)
            return found.experiment_id
        if named is None:
            return Retry(self._what_is_wrong(found), lasting=True)
        kind = "is deleted" if found else "does not exist"
        return Rejected(
            f"the experiment named by the spans {kind} (mlflow.experimentId): id {named[:40]}",
            divisible=False,
        )

    def forget(self) -> None:
        """Clear the cache, since a write has shown that an id in it may be wrong."""
        self._known.clear()

    def _configured(self) -> Found:
        name = self._config.effective_experiment_name
        if name is None:
            return self._directory.by_id(str(self._config.experiment_id))
        return self._directory.by_name(name) or self._directory.create(name)

    def _what_is_wrong(self, found: Experiment | None) -> str:
        if found is not None:
            return (
                f"the experiment is deleted ({_SETTINGS}): {found.name!r}, id "
                f"{found.experiment_id}; restore it or choose another"
            )
        name = self._config.effective_experiment_name
        which = f"id {self._config.experiment_id}" if name is None else repr(name)
        return f"there is no such experiment ({_SETTINGS}): {which}"
