# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""`AutologClient`, the handle that `autolog` returns.

Only the standard library is imported before a method is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from types import TracebackType

    from mlflow_bridge._config.settings import MLflowDSPyConfig
    from mlflow_bridge._delivery.status import DeliveryStatus
    from mlflow_bridge._setup.trace_processing import TraceProcessing
    from mlflow_bridge.traces.finished import FinishedTrace
    from mlflow_bridge.traces.workers import TraceProcessorStatus

_FLUSH_SECONDS: Final = 30.0
"""Longest wait for the delivery before traces are looked for in MLflow."""


class AutologState(Protocol):
    """The state of `autolog` in this process, as far as its client needs it."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Guards the state; reentrant."""
        ...

    @property
    def client(self) -> AutologClient | None:
        """The current client."""
        ...

    @property
    def traces(self) -> TraceProcessing:
        """The trace processors of the current client."""
        ...

    def config_in_use(self) -> MLflowDSPyConfig:
        """The settings in use."""
        ...

    def connect_trace_processors(self) -> None:
        """Give the trace processors the traces of the tracer provider in use."""
        ...

    def reports_shutdown(self) -> bool:
        """Whether the program has shut the delivery down; reports it once."""
        ...

    def reconfigure(self, config: MLflowDSPyConfig, overrides: Mapping[str, Any]) -> None:
        """Call `autolog` with other settings."""
        ...

    def disable(self) -> None:
        """Undo `autolog`."""
        ...


class AutologClient:
    """Handle of the delivery to MLflow that `mlflow_bridge.autolog` has set up in this process.

    Only ``autolog()`` makes a client. There is one client at a time: a further call returns the
    same client. As a context manager it calls `close` at the end of the outermost block. Methods
    may be called by any thread.

    Example:
        >>> with mlflow_bridge.autolog(experiment_name="rag"):  # doctest: +SKIP
        ...     program(question="...")
    """

    def __init__(self, autolog: Any) -> None:
        # Any, since the type is not public.
        self._autolog: AutologState = autolog
        self._entered = 0

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._autolog.config_in_use()

    def status(self) -> tuple[DeliveryStatus, ...]:
        """Delivery status of each destination; the same as `mlflow_bridge.status`."""
        from mlflow_bridge._delivery.registry import status

        return status()

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Wait until what ended before this call is in MLflow or in the spool, and was looked at.

        A trace processor may call this; it does not wait for itself.

        Args:
            timeout_seconds: Longest wait in seconds.

        Returns:
            True only if each span that ended before is now stored in MLflow or on disk, as well as
            each assessment, each run of an evaluation has its results, and each trace was given to
            every trace processor. False if the tracer provider was shut down, so that no span
            arrives: call `autolog` again.
        """
        deadline = time.monotonic() + timeout_seconds
        traces = self._autolog.traces
        # First: trace processors log assessments, which are to be delivered and may keep a trace.
        # A trace processor that hangs takes half of the time.
        looked_at = traces.flush(timeout_seconds / 2)
        delivered = _flush_deliveries(deadline)
        if not looked_at:
            looked_at = traces.flush(max(deadline - time.monotonic(), 0.0))
            delivered = _flush_deliveries(deadline) and delivered
        delivered = _flush_artifacts(deadline) and delivered
        is_shut_down = self._autolog.reports_shutdown()
        return looked_at and delivered and not is_shut_down

    def add_trace_processor(self, function: Callable[[FinishedTrace], object]) -> None:
        """Give each further trace to a function when it has ended.

        The function is called with a `FinishedTrace`, one trace at a time, on a thread of its own.
        If it raises or hangs, the program, the delivery and other trace processors go on, and a
        warning names it. It is called for the traces that the setting ``traces`` chooses: when the
        local root and all spans that have started have ended, or 30 seconds after the root, with
        ``complete=False``. A trace that began before is not included.

        What the function calls makes no traces: instrumentations are suppressed in it, and other
        spans are not given to trace processors. Threads that it starts itself are not covered.

        At most 10,000 traces, or about 64 MiB, wait for the function; `trace_processor_status`
        counts what it has missed. It stays when `autolog` is called again, until `close`. A
        function that was added before is not added again.

        Args:
            function: Called with each trace; its result is ignored.

        Raises:
            ConfigurationError: The argument is not a function, or is a coroutine function.

        Example:
            >>> client.add_trace_processor(lambda trace: print(trace.name))  # doctest: +SKIP
        """
        with self._autolog.lock:
            if self._autolog.client is not self:
                _report_closed_client("A trace processor was added to")
                return
            self._autolog.traces.add(function)
            self._autolog.connect_trace_processors()

    def remove_trace_processor(self, function: Callable[[FinishedTrace], object]) -> None:
        """Give no more traces to a function, also not those that wait for it.

        Args:
            function: The function; nothing happens if it was not added.
        """
        with self._autolog.lock:
            if self._autolog.client is self:
                self._autolog.traces.remove(function)

    def trace_processor_status(self) -> tuple[TraceProcessorStatus, ...]:
        """Counters of each trace processor, in the order in which they were added."""
        return self._autolog.traces.status()

    def get_traces(
        self,
        *,
        run_id: str | None = None,
        experiment: str | None = None,
        filter_string: str | None = None,
        since: datetime | timedelta | str | None = None,
        limit: int | None = None,
        tracking_uri: str | None = None,
    ) -> Iterator[FinishedTrace]:
        """Traces in MLflow, the newest first. They are read page by page, while they are looked at.

        Spans are delivered first, so that traces that have just ended are found. Needs MLflow
        itself, the extra ``mlflow``; credentials are those of MLflow's environment variables.
        Traces without a stored span are left out.

        Args:
            run_id: Only traces that are linked to this run.
            experiment: Name or id of the experiment; by default that of the run, or else the
                experiment of this client.
            filter_string: Condition in MLflow's search language, such as
                ``"trace.status = 'ERROR' AND span.name LIKE '%search%'"``.
            since: Only traces that started since: a time, a `timedelta` before now, or text such as
                ``24h`` or ``7d`` (s, m, h, d, w), or ``2025-01-31`` (ISO 8601). A time without a
                zone is local.
            limit: The most traces; None for all.
            tracking_uri: Where the traces are; by default the tracking URI of this client.

        Raises:
            ConfigurationError: An argument is not accepted, there is no such experiment or run, or
                MLflow is not installed.

        Example:
            >>> for trace in client.get_traces(since="24h", limit=100):  # doctest: +SKIP
            ...     print(trace.id, trace.duration_ms, trace.cost)
        """
        from mlflow_bridge.traces.query import checked_filters, get_traces

        checked_filters(filter_string=filter_string, since=since, limit=limit)
        _flush_deliveries(time.monotonic() + _FLUSH_SECONDS)
        config = self.config
        if tracking_uri is None:
            tracking_uri = config.tracking_uri
            if experiment is None and run_id is None:
                experiment = config.experiment_id or config.effective_experiment_name
        return get_traces(
            run_id=run_id,
            experiment=experiment,
            filter_string=filter_string,
            since=since,
            limit=limit,
            tracking_uri=tracking_uri,
        )

    def reconfigure(self, config: MLflowDSPyConfig | None = None, **overrides: Any) -> None:
        """Change settings at run time, as a further call of `autolog` does.

        Spans that are open, and spans that wait, are delivered once, by the settings before or
        after. Trace processors stay.

        Args:
            config: The new settings; by default those in use.
            **overrides: Settings by name that take precedence over ``config``.

        Raises:
            ConfigurationError: A value is not accepted, or there is no such setting. Nothing is
                changed then.

        Example:
            >>> client.reconfigure(custom_tags={"release": "2.4"})  # doctest: +SKIP
        """
        with self._autolog.lock:
            if self._autolog.client is self:
                self._autolog.reconfigure(config or self.config, overrides)
            else:
                _report_closed_client("Settings were changed at")

    def close(self) -> None:
        """Call `mlflow_bridge.disable_autolog`, unless this client is no longer the current one."""
        if self._autolog.client is self:
            self._autolog.disable()

    def __enter__(self) -> AutologClient:
        self._entered += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered -= 1
        # Functions that call one another may nest blocks, all of them with this client.
        if not self._entered:
            self.close()


def _flush_deliveries(deadline: float) -> bool:
    """Wait until ended spans are stored or in the spool, until this `time.monotonic` at most."""
    from mlflow_bridge._delivery.registry import delivering_processors

    complete = True
    for processor in delivering_processors():
        left = max(deadline - time.monotonic(), 0.0)
        complete = processor.force_flush(left * 1000) and complete
    return complete


def _flush_artifacts(deadline: float) -> bool:
    """Wait until runs that have ended have their artifacts, until this time at most."""
    from mlflow_bridge._delivery.registry import delivering_processors
    from mlflow_bridge._setup.processor import flush_artifacts

    complete = True
    for processor in delivering_processors():
        left = max(deadline - time.monotonic(), 0.0)
        complete = flush_artifacts(processor, left) and complete
    return complete


def _report_closed_client(what: str) -> None:
    from mlflow_bridge._config.base import report_once

    report_once(
        f"{what} a client that is closed, which has no effect. Call autolog() again, and use the "
        "client that autolog() returns."
    )
