# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Where spans can go: a SQL store in this process, or a tracking server."""

from __future__ import annotations

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.destination import Destination, UnusableDestination

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
