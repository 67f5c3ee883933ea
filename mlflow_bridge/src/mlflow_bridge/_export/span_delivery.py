# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What delivers spans for a processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.contract import Outcome


class SpanDelivery(Protocol):
    """What the sender needs of an exporter. Called by the sender's thread only."""

    @property
    def destination_description(self) -> str:
        """Where the spans go, in words for a log line; without secrets. Read by any thread."""
        ...

    def warm_up(self) -> object:
        """Open the destination, which may take a while. Left out if spans wait already."""
        ...

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """Make one attempt at storing these spans. Bounded in time by its own time-outs."""
        ...

    def close(self) -> object:
        """Free what the exporter holds. Called once, after the last ``deliver``."""
        ...
