# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Stands in for the processor of an exporter whose settings cannot be used."""

from __future__ import annotations

import atexit
import logging
import threading
from weakref import WeakMethod

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from mlflow_bridge.processing.exit_summary import exit_summary
from mlflow_bridge.processing.live import register
from mlflow_bridge.processing.status import DeliveryStatus

_logger = logging.getLogger(__name__)


class RefusingSpanProcessor(SpanProcessor):
    """Counts the sampled spans that ended, and says at the end how many are not in MLflow.

    Args:
        reason: Why there is nowhere to send them.
    """

    def __init__(self, reason: str) -> None:
        self._reason = reason
        # Reentrant for the same reason as in `Notices`.
        self._lock = threading.RLock()
        self._refused = 0
        self._reported = False
        self.component_name = register(self)
        report = WeakMethod(self.shutdown)

        def at_exit() -> None:
            if known := report():
                known()

        atexit.register(at_exit)

    def on_end(self, span: ReadableSpan) -> None:
        """Count the span if it is sampled."""
        if span.context is not None and span.context.trace_flags.sampled:
            with self._lock:
                self._refused += 1

    def status(self) -> DeliveryStatus:
        """All spans are dropped."""
        refused = self._refused
        return DeliveryStatus(
            accepted=0,
            stored=0,
            retried=0,
            rejected=0,
            dropped=refused,
            spilled=0,
            queued=0,
            last_error=self._reason if refused else None,
            destination="MLflow (bad settings)",
        )

    def before_exit(self) -> None:
        """Say what is missing."""
        self.shutdown()

    def shutdown(self) -> None:
        """Say what is missing. May be repeated."""
        status = self.status()
        line = exit_summary(status, spool=None, known=True, exit_timeout=None)
        if line is not None and not self._reported:
            self._reported = True
            _logger.warning("%s", line)

    def force_flush(self, timeout_millis: float | None = None) -> bool:
        """Whether no span was refused."""
        return not self._refused
