# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Replacement for an exporter that cannot be made with the given settings."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._export.contract import Rejected


class UnconfiguredDelivery:
    """Refuses every span, so that missing spans are counted.

    Args:
        config: The settings of the processor around it.
        reason: Why spans cannot be sent.
    """

    destination_description = "MLflow (bad settings)"

    def __init__(self, config: MLflowDSPyConfig, reason: str) -> None:
        self.config = config
        self.obstacle = reason

    def warm_up(self) -> Rejected:
        """Return the rejection with its reason."""
        return self.deliver(())

    def deliver(self, spans: Sequence[ReadableSpan]) -> Rejected:
        """Refuse the spans."""
        return Rejected(self.obstacle, divisible=False, spans_to_blame=False)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
