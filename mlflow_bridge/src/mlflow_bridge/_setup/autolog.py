# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One call for programs that are not started by ``opentelemetry-instrument``.

Nothing but the standard library is imported before the first call.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_bridge._process.forks import call_in_child

if TYPE_CHECKING:
    from types import TracebackType

    from mlflow_bridge._config.resolved import ResolvedConfig
    from mlflow_bridge._config.settings import MLflowDSPyConfig
    from mlflow_bridge._delivery.status import DeliveryStatus
    from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor
    from mlflow_bridge._setup.switch import SwitchableSpanProcessor
    from mlflow_bridge._spans.tracer_provider import AcceptsProcessors

_logger = logging.getLogger(__name__)


class AutologClient:
    """The delivery to MLflow that `mlflow_bridge._setup.autolog` has set up in this process.

    A context manager, which calls `close` at the end of the outermost block. There is one client at
    a time, and ``autolog()`` alone makes it; a further call returns the same one. Methods may be
    called by any thread.

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
        """What became of the spans that went to MLflow, as `mlflow_bridge.status` says it."""
        from mlflow_bridge._delivery.registry import status

        return status()

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Wait until the spans that ended before this call are stored, or in the spool.

        Args:
            timeout_seconds: The longest to wait.

        Returns:
            True only if every span that was on its way is stored now, or on disk.
        """
        from mlflow_bridge._delivery.registry import registered_processors

        deadline = time.monotonic() + timeout_seconds
        complete = True
        for processor in registered_processors():
            left = max(deadline - time.monotonic(), 0.0)
            complete = processor.force_flush(left * 1000) and complete
        return complete

    def close(self) -> None:
        """Do what `mlflow_bridge.disable_autolog` does, if this is the current client still."""
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
        # Blocks may be nested, in functions that call one another: they all have this client.
        if not self._entered:
            self.close()


@dataclass
class _Session:
    """What `autolog` has set up in this process. Guarded by ``lock``."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    client: AutologClient | None = None
    provider: AcceptsProcessors | None = None
    switch: SwitchableSpanProcessor | None = None
    """Added to ``provider`` once, and never taken away again, since a provider offers no way to."""
    processor: MLflowBatchSpanProcessor | None = None
    """What is behind the switch."""
    config: MLflowDSPyConfig | None = None
    """The settings of the delivery; None while nothing is sent."""
    asked_for: MLflowDSPyConfig | None = None
    """The settings of the last call."""
    instrumented_with: dict[str, Any] | None = None
    """The arguments with which DSPy was instrumented here; None if it was not."""


_session = _Session()


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock, maybe for seconds, is the parent's."""
    _session.lock = threading.RLock()


call_in_child(_renew_lock)


def autolog(config: MLflowDSPyConfig | None = None, /, **overrides: Any) -> AutologClient:
    """Trace every DSPy program of this process to MLflow. Idempotent and thread-safe.

    Joins the global tracer provider, or sets one if there is none, and instruments DSPy unless it
    is instrumented already. Inputs and outputs are recorded unless ``capture_content`` or
    ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says otherwise.

    A second call with the same settings does nothing; with others it moves on to the new
    destination, after what was meant for the old one has been delivered there, for which it takes
    at most ``exit_timeout_seconds``. Where ``opentelemetry-instrument`` sends traces to the very
    same destination already, there is no second delivery: the one that is there gets the settings
    of this call.

    Args:
        config: The settings. Default: the environment, then defaults.
        **overrides: Settings by name that go before those of ``config``, such as
            ``tracking_uri="http://127.0.0.1:5000"``.

    Returns:
        The client of this process, also from `get_autolog_client`.

    Raises:
        ConfigurationError: An argument is not accepted. What is wrong in the environment raises
            nothing: one warning names it, and the safer choice holds. If spans have no place to go,
            or MLflow is not installed where it is needed, they are refused and counted, and an
            earlier destination stays. DSPy is instrumented all the same.

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
        try:
            _instrument_dspy(resolved.config)
        except Exception:
            _logger.warning("DSPy could not be instrumented.", exc_info=True)
        return client


def _config_in_use() -> MLflowDSPyConfig:
    config = _session.config or _session.asked_for
    assert config is not None, "set by autolog(), which makes clients"
    return config


def get_autolog_client() -> AutologClient | None:
    """What `autolog` returned last in this process; None before, and after `disable_autolog`."""
    return _session.client


def disable_autolog() -> None:
    """Undo `autolog`: instrument DSPy no longer, deliver what waits, and send nothing more.

    Delivery takes at most ``exit_timeout_seconds``. A tracer provider that `autolog` set stays
    set, since OpenTelemetry lets no one replace it; `autolog` may be called again. What
    ``opentelemetry-instrument`` or the program itself set up stays as it is.
    """
    from mlflow_bridge._mlflow_tracing.joining import leave_mlflow_tracing

    with _session.lock:
        _session.client = None
        _uninstrument_dspy()
        leave_mlflow_tracing()
        _session.config = None
        _move_on(None)


def _resolved(config: MLflowDSPyConfig | None, overrides: dict[str, Any]) -> ResolvedConfig:
    from mlflow_bridge._config.resolved import ResolvedConfig, resolve_config
    from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig

    if "config" in overrides:
        raise ConfigurationError("a configuration is the first argument: autolog(config)")
    if config is None:
        return resolve_config(overrides)
    if not isinstance(config, MLflowDSPyConfig):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(
            # Not the value: an address may have a password in it.
            f"the first argument of autolog() is a {type(config).__name__}; accepted: an "
            "MLflowDSPyConfig. "
            "Settings are given by name: autolog(tracking_uri=..., experiment_name=...)"
        )
    return ResolvedConfig(config.replace(**overrides) if overrides else config)


def _send_to_mlflow(resolved: ResolvedConfig) -> None:
    from mlflow_bridge._config.settings import ConfigurationError
    from mlflow_bridge._export.exporter import MLflowSpanExporter
    from mlflow_bridge._setup.processor import join_provider
    from mlflow_bridge._setup.zero_code import adopted_delivery

    if resolved.obstacle is not None:
        raise ConfigurationError(resolved.obstacle)
    config = resolved.config
    if config == _session.config:
        return
    adopted = adopted_delivery(config)
    if adopted is not None:
        adopted.reconfigure(config)
        _move_on(None)
    else:
        processor = _made_processor(MLflowSpanExporter(config=config))
        _move_on(processor)
        join_provider(processor, _session.provider)
        _logger.info(
            "Traces go to %s (content: %s).",
            config.destination_description,
            _content_mode_of(config),
        )
    _session.config = config


def _move_on(processor: MLflowBatchSpanProcessor | None) -> None:
    """Have spans delivered by this processor from now on, or by none of ours."""
    before, _session.processor = _session.processor, processor
    if processor is not None:
        _switch_in_provider(processor.config).switch(processor)
    elif _session.switch is not None:
        _session.switch.switch(None)
    if before is not None:
        before.retire(processor)


def _made_processor(exporter: Any) -> MLflowBatchSpanProcessor:
    from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor

    processor = MLflowBatchSpanProcessor(exporter)
    # The program has said that it will be traced, so there is no need to wait for its first span.
    processor.warm_up()
    return processor


def _content_mode_of(config: MLflowDSPyConfig) -> str:
    from opentelemetry.instrumentation.dspy import load_settings

    return load_settings(**config.instrument_arguments()).content_mode.name


def _switch_in_provider(config: MLflowDSPyConfig) -> SwitchableSpanProcessor:
    if _session.switch is None:
        from mlflow_bridge._setup.provider import joined_or_new_provider
        from mlflow_bridge._setup.switch import SwitchableSpanProcessor

        switch = SwitchableSpanProcessor()
        provider = joined_or_new_provider(config)
        provider.add_span_processor(switch)
        _session.provider, _session.switch = provider, switch
    return _session.switch


def _instrument_dspy(config: MLflowDSPyConfig) -> None:
    from mlflow_bridge._setup.instrumentation import (
        instrument_again,
        warn_of_unused_instrument_settings,
    )
    from mlflow_bridge._setup.zero_code import adopted_deliveries
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
        if _session.instrumented_with == arguments:
            return
        instrumentor.uninstrument()
    instrumentor.instrument(tracer_provider=_session.provider, **arguments)
    if instrumentor.is_instrumented_by_opentelemetry:
        _session.instrumented_with = arguments


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
    """Say why nothing is sent with these settings; count the spans that go nowhere by it."""
    from mlflow_bridge._config.settings import ConfigurationError

    stays = _session.config
    now = f"still go to {stays.destination_description}" if stays else "do not go to MLflow"
    if isinstance(error, ConfigurationError):
        _logger.warning("autolog(): %s. Traces %s.", error, now)
    else:
        _logger.warning("autolog() failed; traces %s.", now, exc_info=error)
    if stays is None:
        _refuse(config, str(error))


def _refuse(config: MLflowDSPyConfig, reason: str) -> None:
    """Count spans in the place of a delivery that cannot be set up."""
    from mlflow_bridge._setup.unconfigured import UnconfiguredDelivery

    before = _session.processor
    if before is not None:  # It refuses them, too.
        return
    try:
        _session.processor = _made_processor(UnconfiguredDelivery(config, reason))
        _switch_in_provider(config).switch(_session.processor)
    except Exception:
        _logger.debug("Spans that go nowhere are not counted", exc_info=True)
