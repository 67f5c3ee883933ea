# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What a program has in hand after `mlflow_bridge.autolog`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from mlflow_bridge.config import MLflowDSPyConfig
    from mlflow_bridge.processing.status import DeliveryStatus


class AutologClient:
    """The delivery to MLflow that `mlflow_bridge.autolog` has set up in this process.

    A context manager, which calls `close` at its end. There is one client at a time; a further call
    of ``autolog()`` returns the same one. Made by ``autolog()`` only. Methods may be called by any
    thread.

    Example:
        >>> with mlflow_bridge.autolog(experiment_name="rag"):  # doctest: +SKIP
        ...     program(question="...")
    """

    def __init__(self, config: MLflowDSPyConfig) -> None:
        self._config = config

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._config

    def use(self, config: MLflowDSPyConfig) -> None:
        """Note the settings in use. Called by ``autolog()``."""
        self._config = config

    def status(self) -> tuple[DeliveryStatus, ...]:
        """What became of the spans that went to MLflow, as `mlflow_bridge.status` says it."""
        from mlflow_bridge.processing.live import status

        return status()

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Wait until the spans that ended before this call are stored, or in the spool.

        Args:
            timeout_seconds: The longest to wait.

        Returns:
            True only if every span that was on its way is stored now, or on disk.
        """
        from mlflow_bridge.processing.live import live_processors

        deadline = time.monotonic() + timeout_seconds
        complete = True
        for processor in live_processors():
            left = max(deadline - time.monotonic(), 0.0)
            complete = processor.force_flush(left * 1000) and complete
        return complete

    def close(self) -> None:
        """Do what `mlflow_bridge.disable_autolog` does, if this is the current client still."""
        from mlflow_bridge.autolog import disable_autolog, get_autolog_client

        if get_autolog_client() is self:
            disable_autolog()

    def __enter__(self) -> AutologClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
