# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The interface of a destination, and the choice of one by the settings."""

from __future__ import annotations

from typing import Protocol

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, TraceSight
from mlflow_bridge._export.mapping.trace_details import TraceDetails
from mlflow_bridge._export.runs.contract import NewRun, RunFigures, RunStep
from mlflow_bridge._spans.annotation import Annotation


class Destination(Protocol):
    """A store or server that takes batches of spans, used by one thread at a time.

    ``is_loaded``, ``load`` and ``close`` access neither disk nor network. ``send`` also writes the
    details of the batch's roots; see `MappedSpan`.
    """

    @property
    def is_loaded(self) -> bool:
        """Whether all large packages have been imported, or cannot be. Read by any thread."""
        ...

    def load(self) -> Retry | None:
        """Import the large packages that the destination needs; ``warm_up`` would otherwise do it.

        Returns:
            The failure; None on success.
        """
        ...

    def warm_up(self) -> Retry | Rejected | None:
        """Open the store or connect to the server, and look up or create the experiment.

        The first ``send`` would otherwise do this.

        Returns:
            The failure; None on success.
        """
        ...

    def send(self, batch: Batch) -> Outcome:
        """Make one attempt at storing the batch in one write. Raises only on a bug."""
        ...

    def look_up(self, trace_id: str) -> TraceSight | Retry | None:
        """Look a trace up by MLflow's id; None if the destination has nothing of the trace."""
        ...

    def describe(self, trace_id: str, details: TraceDetails) -> Retry | None:
        """Write the details of a trace whose root is stored; the failure if a retry may help."""
        ...

    def annotate(self, annotation: Annotation) -> Outcome:
        """Give a stored trace an assessment or a tag. May be repeated."""
        ...

    def begin_run(self, run: NewRun) -> str | Retry | Rejected:
        """Find the run with this key, or make it, and return its id."""
        ...

    def log_step(self, run_id: str, step: RunStep) -> Retry | Rejected | None:
        """Write the metrics of one step of a run. May be repeated."""
        ...

    def end_run(self, run_id: str, figures: RunFigures) -> Retry | Rejected | None:
        """Write parameters and metrics of a run, and end it. May be repeated."""
        ...

    def close(self) -> None:
        """Free connections. The destination may be used again afterwards."""
        ...


class UnusableDestination:
    """Replacement for a destination that cannot be made with the given settings."""

    is_loaded = True

    def __init__(self, reason: str) -> None:
        self._outcome = Rejected(reason, divisible=False, spans_to_blame=False)

    def load(self) -> None:
        """Do nothing: no package is needed."""

    def warm_up(self) -> Rejected:
        """Return the rejection with its reason."""
        return self._outcome

    def send(self, batch: Batch) -> Rejected:
        """Refuse the batch."""
        return self._outcome

    def look_up(self, trace_id: str) -> None:
        """Find nothing."""

    def describe(self, trace_id: str, details: TraceDetails) -> None:
        """Do nothing: no trace is stored."""

    def annotate(self, annotation: Annotation) -> Rejected:
        """Refuse the annotation."""
        return self._outcome

    def begin_run(self, run: NewRun) -> Rejected:
        """Refuse the run."""
        return self._outcome

    def log_step(self, run_id: str, step: RunStep) -> Rejected:
        """Refuse the step."""
        return self._outcome

    def end_run(self, run_id: str, figures: RunFigures) -> Rejected:
        """Refuse the figures."""
        return self._outcome

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


__all__ = ["Destination", "UnusableDestination", "make_destination"]


def make_destination(config: MLflowDSPyConfig) -> Destination:
    """Create the destination that the configuration names, without access to disk or network.

    MLflow is not imported: many processes have an exporter, but make no span for it.

    Raises:
        ConfigurationError: A package that the destination needs is not installed.
    """
    # Imported here, because each destination imports much that the other does not need.
    if config.is_server:
        from mlflow_bridge._export.server.destination import ServerDestination

        return ServerDestination(config)
    from mlflow_bridge._export.store.destination import StoreDestination

    return StoreDestination(config)
