# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""`autolog`, for programs that are not started by ``opentelemetry-instrument``.

Only the standard library is imported before the first call.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._setup.trace_processing import TraceProcessing

if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from types import TracebackType

    from mlflow_bridge._config.resolved import ResolvedConfig
    from mlflow_bridge._config.settings import MLflowDSPyConfig
    from mlflow_bridge._delivery.status import DeliveryStatus
    from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor
    from mlflow_bridge._setup.switch import SwitchableSpanProcessor
    from mlflow_bridge._spans.tracer_provider import AcceptsProcessors
    from mlflow_bridge.traces.finished import FinishedTrace
    from mlflow_bridge.traces.workers import TraceProcessorStatus

_logger = logging.getLogger(__name__)

_MAX_SHOWN = 1000
"""Characters of an error in the log."""


class AutologClient:
    """Handle of the delivery to MLflow that `mlflow_bridge.autolog` has set up in this process.

    Only ``autolog()`` makes a client. There is one client at a time: a further call returns the
    same client. As a context manager it calls `close` at the end of the outermost block. Methods
    may be called by any thread.

    Example:
        >>> with mlflow_bridge.autolog(experiment_name="rag"):  # doctest: +SKIP
        ...     program(question="...")
    """

    def __init__(self, config_in_use: Callable[[], MLflowDSPyConfig]) -> None:
        self._config_in_use = config_in_use
        self._entered = 0

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._config_in_use()

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
            True only if each span that ended before is now stored in MLflow or on disk, and each
            trace that ended before was given to every trace processor. False if the
            tracer provider was shut down, so that no span arrives: call `autolog` again.
        """
        from mlflow_bridge._delivery.registry import registered_processors

        deadline = time.monotonic() + timeout_seconds
        complete = True
        for processor in registered_processors():
            left = max(deadline - time.monotonic(), 0.0)
            complete = processor.force_flush(left * 1000) and complete
        # Afterwards: a trace processor that hangs takes no time from the delivery.
        left = max(deadline - time.monotonic(), 0.0)
        complete = _session.traces.flush(left) and complete
        return complete and not _reports_shutdown()

    def add_trace_processor(self, function: Callable[[FinishedTrace], object]) -> None:
        """Give each further trace to a function when it has ended.

        The function is called with a `FinishedTrace`, one trace at a time, on a thread of its own.
        If it raises or hangs, the program, the delivery and other trace processors go on, and a
        warning names it. It is called for the traces that the setting ``traces`` chooses: when the
        local root and all spans that have started have ended, or 30 seconds after the root, with
        ``complete=False``. A trace that began before is not included.

        What the function calls makes no traces: instrumentations are suppressed in it, and other
        spans are not given to trace processors. Threads that it starts itself are not covered.

        At most 10,000 traces, or about 64 MiB, wait for the function; `trace_processor_status` counts
        what it has missed. It stays when `autolog` is called again, until `close`. A function that
        was added before is not added again.

        Args:
            function: Called with each trace; its result is ignored.

        Raises:
            ConfigurationError: The argument is not a function, or is a coroutine function.

        Example:
            >>> client.add_trace_processor(lambda trace: print(trace.name))  # doctest: +SKIP
        """
        with _session.lock:
            if _session.client is not self:
                _report_closed_client()
                return
            _session.traces.add(function)
            _connect_trace_processors()

    def remove_trace_processor(self, function: Callable[[FinishedTrace], object]) -> None:
        """Give no more traces to a function, also not those that wait for it.

        Args:
            function: The function; nothing happens if it was not added.
        """
        with _session.lock:
            if _session.client is self:
                _session.traces.remove(function)

    def trace_processor_status(self) -> tuple[TraceProcessorStatus, ...]:
        """Counters of each trace processor, in the order in which they were added."""
        return _session.traces.status()

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

        The client is flushed first, so that traces that have just ended are found. Needs MLflow
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
        from mlflow_bridge.traces.query import get_traces

        self.flush()
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

    def close(self) -> None:
        """Call `mlflow_bridge.disable_autolog`, unless this client is no longer the current one."""
        if get_autolog_client() is self:
            disable_autolog()

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


def _config_in_use() -> MLflowDSPyConfig:
    config = _session.config or _session.asked_for
    assert config is not None, "set by autolog(), which makes clients"
    return config


@dataclass
class _Session:
    """State of `autolog` in this process. Guarded by ``lock``."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    client: AutologClient | None = None
    provider: AcceptsProcessors | None = None
    switch: SwitchableSpanProcessor | None = None
    """Added to ``provider`` once and never removed, since a provider cannot remove a processor.
    After a shutdown of the provider, another switch is added."""
    processor: MLflowBatchSpanProcessor | None = None
    """Target of the switch."""
    config: MLflowDSPyConfig | None = None
    """The settings of the delivery; None while nothing is sent."""
    asked_for: MLflowDSPyConfig | None = None
    """The settings of the last call."""
    instrumented_with: dict[str, Any] | None = None
    """The arguments with which DSPy was instrumented here; None if it was not."""
    instrumented_for: AcceptsProcessors | None = None
    """The provider with which DSPy was instrumented here."""
    traces: TraceProcessing = field(default_factory=lambda: TraceProcessing(_config_in_use))
    """The trace processors of the client."""


_session = _Session()


def _renew_lock() -> None:
    """Replace the lock in a forked child, where the thread that held it does not exist."""
    _session.lock = threading.RLock()


call_in_child(_renew_lock)


def autolog(config: MLflowDSPyConfig | None = None, /, **overrides: Any) -> AutologClient:
    """Trace every DSPy program of this process to MLflow. Idempotent and thread-safe.

    Adds a span processor to the global tracer provider, which is created if it does not exist.
    Instruments DSPy unless it is instrumented already. Inputs and outputs are recorded unless
    ``capture_content`` or ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` excludes them.

    A second call with the same settings does nothing, unless the tracer provider was shut down in
    between: the delivery is then set up again. A call with other settings sends further
    spans to the new destination, and delivers waiting spans to the old one for at most
    ``exit_timeout_seconds``. If ``opentelemetry-instrument`` already sends traces to the same
    destination, that delivery gets the settings of this call, and no second delivery is created.

    Args:
        config: The settings. Default: the environment, then defaults.
        **overrides: Settings by name that take precedence over ``config``, such as
            ``tracking_uri="http://127.0.0.1:5000"``.

    Returns:
        The client of this process, also available from `get_autolog_client`.

    Raises:
        ConfigurationError: An argument is not accepted. A wrong environment variable does not
            raise: one warning names it, and a safer value is used. If the destination is unusable,
            or needs MLflow and MLflow is not installed, a warning says so and an earlier
            destination stays in use. Without an earlier destination, spans are refused and counted.
            DSPy is instrumented in any case.

    Example:
        >>> client = mlflow_bridge.autolog(experiment_name="rag")  # doctest: +SKIP
        >>> client.flush()  # doctest: +SKIP
    """
    resolved = _resolved(config, overrides)
    with _session.lock:
        if _session.client is None:
            _session.client = AutologClient(_config_in_use)
        client = _session.client
        _session.asked_for = resolved.config
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            _logger.info("autolog() does nothing, because OTEL_SDK_DISABLED is set.")
            return client
        try:
            _send_to_mlflow(resolved)
        except Exception as error:
            _warn_about(error, resolved.config)
        _connect_trace_processors()
        try:
            _instrument_dspy(resolved.config)
        except Exception:
            _logger.warning("DSPy could not be instrumented.", exc_info=True)
        return client


def get_autolog_client() -> AutologClient | None:
    """The client of `autolog` in this process; None before it and after `disable_autolog`."""
    return _session.client


def disable_autolog() -> None:
    """Undo `autolog`: uninstrument DSPy, deliver waiting spans, and send no further spans.

    Delivery takes at most ``exit_timeout_seconds``. A tracer provider that `autolog` created stays
    the global one, since OpenTelemetry does not allow replacing it. The instrumentation and
    delivery of ``opentelemetry-instrument`` or of the program itself stay unchanged. `autolog` may
    be called again.
    """
    from mlflow_bridge._mlflow_tracing.joining import leave_mlflow_tracing

    with _session.lock:
        _session.client = None
        leave_mlflow_tracing()
        _session.traces.close()
        _session.config = None
        try:
            _move_on(None)
        finally:
            # Afterwards: the spans that end meanwhile are redacted as the instrumentation says.
            _uninstrument_dspy()


def _resolved(config: MLflowDSPyConfig | None, overrides: dict[str, Any]) -> ResolvedConfig:
    from mlflow_bridge._config.resolved import ResolvedConfig, resolve_config
    from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig

    if "config" in overrides:
        raise ConfigurationError("a configuration is the first argument: autolog(config)")
    if config is None:
        return resolve_config(overrides)
    if not isinstance(config, MLflowDSPyConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            # Without the value, since a URI may contain a password.
            f"the first argument of autolog() is a {type(config).__name__}; accepted: an "
            "MLflowDSPyConfig. "
            "Settings are given by name: autolog(tracking_uri=..., experiment_name=...)"
        )
    return ResolvedConfig(config.replace(**overrides) if overrides else config)


def _send_to_mlflow(resolved: ResolvedConfig) -> None:
    from mlflow_bridge._config.settings import ConfigurationError
    from mlflow_bridge._export.exporter import MLflowSpanExporter
    from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor, join_provider
    from mlflow_bridge._setup.zero_code import adopted_delivery

    if resolved.obstacle is not None:
        raise ConfigurationError(resolved.obstacle)
    config = resolved.config
    if _is_shut_down():
        _leave_provider()
    elif config == _session.config:
        return
    adopted = adopted_delivery(config)
    if adopted is not None:
        adopted.reconfigure(config)
        _move_on(None)
    else:
        exporter = MLflowSpanExporter(config=config)
        # The program has asked for tracing. An error of the import is reported now, and children
        # that a server forks share the modules. The store is not opened before the first span.
        failure = exporter.load()
        if failure is not None:
            raise ConfigurationError(failure.reason)
        processor = MLflowBatchSpanProcessor(exporter)
        _move_on(processor)
        join_provider(processor, _session.provider)
        _deliver_spool_of_earlier_processes(processor)
        _logger.info(
            "Traces go to %s (content: %s).",
            config.destination_description,
            _content_mode_of(config),
        )
    _session.config = config


def _is_shut_down() -> bool:
    """Whether the program has shut the delivery down, with its tracer provider.

    Logfire does so at each further ``configure()``, and then has a provider without the bridge.
    """
    from mlflow_bridge._setup.zero_code import adopted_delivery

    if _session.processor is not None:
        return _session.processor.is_closed
    adopted = adopted_delivery(_session.config) if _session.config is not None else None
    return adopted is not None and adopted.is_shut_down


def _reports_shutdown() -> bool:
    # While the interpreter exits, the provider is shut down for good, and all is delivered.
    if not threading.main_thread().is_alive() or not _is_shut_down():
        return False
    from mlflow_bridge._config.base import report_once

    report_once(
        "The tracer provider was shut down after autolog(), so spans do not go to MLflow any more. "
        "Call autolog() again, after the last change of the tracer provider."
    )
    return True


def _leave_provider() -> None:
    """Forget a tracer provider that was shut down; the next processor is added again."""
    from mlflow_bridge._mlflow_tracing.joining import leave_provider

    if _session.switch is not None:
        # The provider may still have the switch, and a span must not be delivered twice.
        _session.switch.switch(None)
        _session.switch = _session.provider = None
    leave_provider()


def _move_on(processor: MLflowBatchSpanProcessor | None) -> None:
    """Deliver further spans by this processor; if it is None, stop the delivery of `autolog`."""
    before, _session.processor = _session.processor, processor
    if processor is not None:
        _switch_in_provider(processor.config).switch(processor)
    elif _session.switch is not None:
        _session.switch.switch(None)
    if before is not None:
        before.retire(processor)


def _deliver_spool_of_earlier_processes(processor: MLflowBatchSpanProcessor) -> None:
    """Open the destination now if spans wait for it on disk; else its first span opens it."""
    if processor.status().spool_bytes:
        processor.warm_up()


def _connect_trace_processors() -> None:
    """Give the trace processors, if there are any, the traces of the provider in use."""
    try:
        if _session.traces.is_used:
            _session.traces.connect(_provider_in_use())
    except Exception:
        _logger.warning("Trace processors get no traces.", exc_info=True)


def _provider_in_use() -> AcceptsProcessors | None:
    """The tracer provider that has the delivery; None if the program has none that takes one."""
    from opentelemetry import trace

    from mlflow_bridge._setup.zero_code import adopted_delivery
    from mlflow_bridge._spans.tracer_provider import accepts_processors

    if _session.provider is not None:
        return _session.provider
    adopted = adopted_delivery(_session.config) if _session.config is not None else None
    if adopted is not None:
        return adopted.provider
    current: object = trace.get_tracer_provider()
    return current if accepts_processors(current) else None


def _report_closed_client() -> None:
    from mlflow_bridge._config.base import report_once

    report_once(
        "A trace processor was added to a client that is closed, and gets no traces. Call "
        "autolog() again, and add it to the client that autolog() returns."
    )


def _content_mode_of(config: MLflowDSPyConfig) -> str:
    from opentelemetry.instrumentation.dspy import load_settings

    return load_settings(**config.instrument_arguments()).content_mode.name


def _switch_in_provider(config: MLflowDSPyConfig) -> SwitchableSpanProcessor:
    if _session.switch is None:
        from mlflow_bridge._setup.provider import joined_or_new_provider
        from mlflow_bridge._setup.switch import SwitchableSpanProcessor
        from mlflow_bridge._spans.tracer_provider import add_processor

        switch = SwitchableSpanProcessor()
        provider = joined_or_new_provider(config)
        add_processor(provider, switch)
        _session.provider, _session.switch = provider, switch
    return _session.switch


def _instrument_dspy(config: MLflowDSPyConfig) -> None:
    from mlflow_bridge._setup.instrumentation import (
        instrument_again,
        warn_of_unused_instrument_settings,
    )
    from mlflow_bridge._setup.zero_code import adopted_deliveries
    from mlflow_bridge._spans.redaction import held_redaction
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    instrumentor = DSPyInstrumentor()
    arguments = config.instrument_arguments()
    if instrumentor.is_instrumented_by_opentelemetry:
        if _session.instrumented_with is None:
            if adopted_deliveries():
                instrument_again(config)
            else:
                warn_of_unused_instrument_settings(config)
            return
        same_provider = _session.instrumented_for is _session.provider
        if _session.instrumented_with == arguments and same_provider:
            return
    with held_redaction():
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
        instrumentor.instrument(tracer_provider=_session.provider, **arguments)
    if instrumentor.is_instrumented_by_opentelemetry:
        _session.instrumented_with = arguments
        _session.instrumented_for = _session.provider


def _uninstrument_dspy() -> None:
    if _session.instrumented_with is None:
        return
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    try:
        DSPyInstrumentor().uninstrument()
    except Exception:
        _logger.warning("DSPy could not be uninstrumented.", exc_info=True)
    _session.instrumented_with = None


def _warn_about(error: Exception, config: MLflowDSPyConfig) -> None:
    """Log why spans are not sent with these settings, and count the spans that are not sent."""
    from mlflow_bridge._config.settings import ConfigurationError, secrets_of
    from mlflow_bridge._process.outside_text import outside_text

    stays = _session.config
    now = f"still go to {stays.destination_description}" if stays else "do not go to MLflow"
    shown = outside_text(error, secrets=secrets_of(config), limit=_MAX_SHOWN)
    if isinstance(error, ConfigurationError):
        _logger.warning("autolog(): %s. Traces %s.", shown, now)
    else:
        _logger.warning("autolog() failed; traces %s.", now, exc_info=error)
    if stays is None:
        _refuse(config, shown)


def _refuse(config: MLflowDSPyConfig, reason: str) -> None:
    """Refuse and count spans, since the delivery cannot be set up."""
    from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor
    from mlflow_bridge._setup.unconfigured import UnconfiguredDelivery

    before = _session.processor
    if before is not None:  # It refuses spans already.
        return
    try:
        _session.processor = MLflowBatchSpanProcessor(UnconfiguredDelivery(config, reason))
        _switch_in_provider(config).switch(_session.processor)
    except Exception:
        _logger.debug("Refused spans cannot be counted", exc_info=True)
