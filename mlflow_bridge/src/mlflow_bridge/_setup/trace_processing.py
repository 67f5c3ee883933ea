# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The trace processors of a client, and the tracer provider whose traces they get.

A provider gets a span processor for them with the first trace processor, and not before: a program
without trace processors does no step more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_bridge._config.settings import MLflowDSPyConfig
    from mlflow_bridge._setup.switch import SwitchableSpanProcessor
    from mlflow_bridge._spans.tracer_provider import AcceptsProcessors
    from mlflow_bridge.traces.dispatch import DispatchSettings, TraceDispatch
    from mlflow_bridge.traces.workers import TraceProcessorStatus


class TraceProcessing:
    """Adds the dispatch of finished traces to a tracer provider. Guarded by the caller's lock.

    Args:
        config_in_use: Returns the settings in use.
    """

    def __init__(self, config_in_use: Callable[[], MLflowDSPyConfig]) -> None:
        self._config_in_use = config_in_use
        self._dispatch: TraceDispatch | None = None
        self._provider: AcceptsProcessors | None = None
        self._switch: SwitchableSpanProcessor | None = None

    @property
    def is_used(self) -> bool:
        """Whether there is a trace processor."""
        return self._dispatch is not None and self._dispatch.is_used

    def add(self, function: Any) -> None:
        """Give further traces to a function.

        Raises:
            ConfigurationError: It is not accepted.
        """
        from mlflow_bridge.traces.dispatch import TraceDispatch

        if self._dispatch is None:
            self._dispatch = TraceDispatch(self._settings)
        self._dispatch.add(function)

    def remove(self, function: Any) -> None:
        """Give no more traces to a function."""
        if self._dispatch is not None and self._dispatch.remove(function) and not self.is_used:
            self._disconnect()

    def connect(self, provider: AcceptsProcessors | None) -> None:
        """Take the traces of this provider from now on, if there is a trace processor."""
        if not self.is_used:
            return
        if provider is not self._provider or self._switch is None:
            self._disconnect()
            self._provider, self._switch = provider, _added_switch(provider)
        if self._switch is not None:
            self._switch.switch(self._dispatch)

    def status(self) -> tuple[TraceProcessorStatus, ...]:
        """Counters of each trace processor."""
        return () if self._dispatch is None else self._dispatch.status()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until each trace processor was given every trace that has ended."""
        return self._dispatch is None or self._dispatch.flush(timeout_seconds)

    def close(self) -> None:
        """Give out what has ended, for at most ``exit_timeout_seconds``, and end all processors."""
        self._disconnect()
        dispatch, self._dispatch = self._dispatch, None
        if dispatch is not None:
            dispatch.close(self._settings().exit_timeout_seconds)

    def _disconnect(self) -> None:
        # The switch stays in its provider, which cannot remove it, and may be used again.
        if self._switch is not None:
            self._switch.switch(None)

    def _settings(self) -> DispatchSettings:
        from mlflow_bridge.traces.dispatch import DispatchSettings

        config = self._config_in_use()
        return DispatchSettings(
            only_genai=config.traces == "genai",
            drops_asgi_io=config.drop_asgi_io_spans,
            max_attribute_bytes=config.max_attribute_bytes,
            program_tags=config.program_tags,
            exit_timeout_seconds=config.exit_timeout_seconds,
        )


def _added_switch(provider: AcceptsProcessors | None) -> SwitchableSpanProcessor | None:
    from mlflow_bridge._setup.pausing import pausable_switch
    from mlflow_bridge._spans.tracer_provider import add_processor

    if provider is None:
        return None
    switch = pausable_switch()
    add_processor(provider, switch)
    return switch
