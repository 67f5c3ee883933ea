# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What the delivery needs of a destination."""

from __future__ import annotations

from typing import Protocol

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry


class Destination(Protocol):
    """Takes batches of spans, one at a time, from one thread at a time.

    Nothing but ``warm_up`` and ``send`` touches disk or network.
    """

    def warm_up(self) -> Retry | Rejected | None:
        """Do now what the first ``send`` would do first, and say what is in its way, if anything.

        Opens the store or meets the server, and looks up the experiment, creating it if absent.
        """
        ...

    def send(self, batch: Batch) -> Outcome:
        """Make one attempt at storing the batch in one write. Raises only on a mistake of ours."""
        ...

    def close(self) -> None:
        """Free connections. The destination may be used again afterwards."""
        ...


class UnusableDestination:
    """Stands in for a destination that the settings do not allow to make."""

    def __init__(self, reason: str) -> None:
        self._outcome = Rejected(reason, divisible=False, spans_to_blame=False)

    def warm_up(self) -> Rejected:
        """Say why nothing can be sent."""
        return self._outcome

    def send(self, batch: Batch) -> Rejected:
        """Refuse the batch."""
        return self._outcome

    def close(self) -> None:
        """There is nothing to free."""


__all__ = ["Destination", "UnusableDestination", "make_destination"]


def make_destination(config: MLflowDSPyConfig) -> Destination:
    """The destination that the configuration names. Neither disk nor network is touched.

    Raises:
        ConfigurationError: What the destination needs is not installed.
    """
    # Either one imports much that the other does not need.
    if config.is_server:
        from mlflow_bridge._export.server.destination import ServerDestination

        return ServerDestination(config)
    from mlflow_bridge._export.store.destination import StoreDestination

    return StoreDestination(config)
