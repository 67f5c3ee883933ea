# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""`autolog`, for programs that are not started by ``opentelemetry-instrument``.

Only the standard library is imported before the first call.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_bridge._process.forks import call_in_child
from mlflow_bridge._setup.client import AutologClient
from mlflow_bridge._setup.trace_processing import TraceProcessing

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from mlflow_bridge._config.resolved import ResolvedConfig
    from mlflow_bridge._config.settings import MLflowDSPyConfig
    from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor
    from mlflow_bridge._setup.sampling import SamplingInUse
    from mlflow_bridge._setup.switch import SwitchableSpanProcessor
    from mlflow_bridge._spans.tracer_provider import AcceptsProcessors

_logger = logging.getLogger(__name__)

_MAX_SHOWN = 1000
"""Characters of an error in the log."""


def _config_in_use() -> MLflowDSPyConfig:
    config = _session.config or _session.asked_for
    assert config is not None, "set by autolog(), which makes clients"
    return config


class _Providers(NamedTuple):
    """The providers that the program has given; None for the global ones."""

    tracer: Any = None
    meter: MeterProvider | None = None
    logger: Any = None


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
    instrumented_for: tuple[object, ...] = ()
    """The providers with which DSPy was instrumented here."""
    given: _Providers = field(default_factory=_Providers)
    """The providers that calls of `autolog` have named."""
    meters: MeterProvider | None = None
    """The meter provider of the processor."""
    sampling: SamplingInUse | None = None
    """The settings of sampling in ``provider``."""
    former: list[SwitchableSpanProcessor] = field(default_factory=list["SwitchableSpanProcessor"])
    """The switches of tracer providers in whose place the program has named others."""
    traces: TraceProcessing = field(default_factory=lambda: TraceProcessing(_config_in_use))
    """The trace processors of the client."""

    def config_in_use(self) -> MLflowDSPyConfig:
        return _config_in_use()

    def connect_trace_processors(self) -> None:
        _connect_trace_processors()

    def reports_shutdown(self) -> bool:
        return _reports_shutdown()

    def reconfigure(self, config: MLflowDSPyConfig, overrides: Mapping[str, Any]) -> None:
        autolog(config, **overrides)

    def disable(self) -> None:
        disable_autolog()


_session = _Session()


def _renew_lock() -> None:
    """Replace the lock in a forked child, where the thread that held it does not exist."""
    _session.lock = threading.RLock()


call_in_child(_renew_lock)


def autolog(
    config: MLflowDSPyConfig | None = None,
    /,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: Any = None,
    **overrides: Any,
) -> AutologClient:
    """Trace every DSPy program of this process to MLflow. Idempotent and thread-safe.

    Adds a span processor to the global tracer provider, which is created if it does not exist.
    Instruments DSPy unless it is instrumented already. Inputs and outputs are recorded unless
    ``capture_content`` or ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` excludes them.

    A second call with the same settings does nothing, unless the tracer provider was shut down in
    between: the delivery is then set up again. A call with other settings sends further
    spans to the new destination, and delivers waiting spans to the old one for at most
    ``exit_timeout_seconds``. If ``opentelemetry-instrument`` already sends traces to the same
    destination, that delivery gets the settings of this call, and no second delivery is created.

    With ``enabled=False`` or ``OTEL_SDK_DISABLED=true``, nothing is instrumented and no provider is
    created; the returned client works. At run time, ``enabled=False`` leaves out the traces that
    begin later.

    Args:
        config: The settings. Default: the environment, then defaults.
        tracer_provider: Gets the span processor in place of the global tracer provider, which is
            then neither created nor changed. A later call without it keeps it.
        meter_provider: Takes the metrics in place of the global meter provider, in the same way.
        logger_provider: Takes the events in place of the global logger provider, in the same way.
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
    from mlflow_bridge._setup.logs import use_log_level
    from mlflow_bridge._setup.pausing import BY_SETTING, pause, resume

    resolved = _unless_disabled(_resolved(config, overrides))
    given = _checked_providers(_Providers(tracer_provider, meter_provider, logger_provider))
    with _session.lock:
        if _session.client is None:
            _session.client = AutologClient(_session)
        client = _session.client
        _session.asked_for = resolved.config
        use_log_level(resolved.config.log_level)
        _use_providers(given)
        if resolved.config.enabled:
            resume(BY_SETTING)
        else:
            pause(BY_SETTING)
            if _session.config is None:
                _logger.info("autolog() does nothing, because enabled is false.")
                return client
        try:
            _send_to_mlflow(resolved)
        except Exception as error:
            _warn_about(error, resolved.config)
            if _session.config is not None:  # The earlier destination, which is on or off as asked.
                enabled = {"enabled": resolved.config.enabled}
                _session.config = _session.config.model_copy(update=enabled)
        _use_sampling(resolved.config)
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
    from mlflow_bridge._setup.logs import use_log_level
    from mlflow_bridge._setup.pausing import BY_MLFLOW, BY_SETTING, resume

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
            _forget_providers()
            resume(BY_SETTING)
            resume(BY_MLFLOW)
            use_log_level(None)


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


def _unless_disabled(resolved: ResolvedConfig) -> ResolvedConfig:
    """The settings, with ``enabled=False`` if OpenTelemetry is switched off."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true":
        return resolved
    _logger.info("OTEL_SDK_DISABLED is set, so that enabled is false.")
    config = resolved.config.model_copy(update={"enabled": False})
    return dataclasses.replace(resolved, config=config)


def _checked_providers(given: _Providers) -> _Providers:
    from mlflow_bridge._config.settings import ConfigurationError
    from mlflow_bridge._spans.tracer_provider import accepts_processors

    if given.tracer is not None and not accepts_processors(given.tracer):
        raise ConfigurationError(
            f"tracer_provider is a {type(given.tracer).__name__}; accepted: a TracerProvider of "
            "OpenTelemetry's SDK, or another one with add_span_processor()"
        )
    for name, value, method in (
        ("meter_provider", given.meter, "get_meter"),
        ("logger_provider", given.logger, "get_logger"),
    ):
        if value is not None and not callable(getattr(value, method, None)):
            raise ConfigurationError(
                f"{name} is a {type(value).__name__}; accepted: one of OpenTelemetry's, with "
                f"{method}()"
            )
    return given


def _use_providers(given: _Providers) -> None:
    """Remember these providers. Another tracer provider gets a switch of its own later."""
    from mlflow_bridge._setup.pausing import retire_switch

    pairs = zip(given, _session.given, strict=True)
    _session.given = _Providers(*(before if new is None else new for new, before in pairs))
    tracer = _session.given.tracer
    if tracer is None or tracer is _session.provider or _session.switch is None:
        return
    # Not without a target: what is open in that provider is delivered when it ends.
    retire_switch(_session.switch)
    _session.former.append(_session.switch)
    _leave_sampling()
    _session.switch = _session.provider = None


def _forget_providers() -> None:
    _session.former.clear()
    _leave_sampling()
    if _session.given.tracer is not None:
        _session.switch = _session.provider = None
    _session.given = _Providers()


def _send_to_mlflow(resolved: ResolvedConfig) -> None:
    from mlflow_bridge._config.settings import ConfigurationError
    from mlflow_bridge._export.exporter import MLflowSpanExporter
    from mlflow_bridge._setup.logs import log_start
    from mlflow_bridge._setup.processor import (
        MLflowBatchSpanProcessor,
        join_provider,
        records_otherwise,
    )
    from mlflow_bridge._setup.zero_code import adopted_delivery

    if resolved.obstacle is not None:
        raise ConfigurationError(resolved.obstacle)
    config = resolved.config
    stays = _session.switch is not None or _session.given.tracer is None
    stays = stays and _session.meters is _session.given.meter
    if _is_shut_down():
        _leave_provider()
    elif stays and config == _session.config:
        return
    elif stays and _session.config and records_otherwise(_session.processor, config):
        _session.config = config
        return
    adopted = adopted_delivery(config) if _session.given.tracer is None else None
    if adopted is not None:
        adopted.reconfigure(_delivering(config))
        _move_on(None)
    else:
        exporter = MLflowSpanExporter(config=_delivering(config))
        # The program has asked for tracing. An error of the import is reported now, and children
        # that a server forks share the modules. The store is not opened before the first span.
        failure = exporter.load()
        if failure is not None:
            raise ConfigurationError(failure.reason)
        processor = MLflowBatchSpanProcessor(exporter, meter_provider=_session.given.meter)
        _session.meters = _session.given.meter
        _move_on(processor)
        join_provider(processor, _session.provider)
        _deliver_spool_of_earlier_processes(processor)
        log_start(
            _logger,
            config,
            door="autolog",
            content=_content_mode_of(config),
            provider=_session.provider,
        )
    _session.config = config


def _delivering(config: MLflowDSPyConfig) -> MLflowDSPyConfig:
    """The settings for a processor, which completes open traces although the bridge is off."""
    return config if config.enabled else config.model_copy(update={"enabled": True})


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

    _leave_sampling()
    if _session.switch is not None:
        # The provider may still have the switch, and a span must not be delivered twice.
        _session.switch.switch(None)
        _session.switch = _session.provider = None
    leave_provider()


def _move_on(processor: MLflowBatchSpanProcessor | None) -> None:
    """Deliver further spans by this processor; if it is None, stop the delivery of `autolog`."""
    before, _session.processor = _session.processor, processor
    for switch in _session.former:
        switch.switch(processor)
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
        if _session.traces.is_used and (_session.config is not None or _config_in_use().enabled):
            _session.traces.connect(_provider_in_use())
    except Exception:
        _logger.warning("Trace processors get no traces.", exc_info=True)


def _provider_in_use() -> AcceptsProcessors | None:
    """The tracer provider that has the delivery; None if the program has none that takes one."""
    from opentelemetry import trace

    from mlflow_bridge._setup.zero_code import adopted_delivery
    from mlflow_bridge._spans.tracer_provider import accepts_processors

    if _session.provider is not None or _session.given.tracer is not None:
        return _session.provider or _session.given.tracer
    adopted = adopted_delivery(_session.config) if _session.config is not None else None
    if adopted is not None:
        return adopted.provider
    current: object = trace.get_tracer_provider()
    return current if accepts_processors(current) else None


def _use_sampling(config: MLflowDSPyConfig) -> None:
    from mlflow_bridge._setup.sampling import SamplingInUse
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    try:
        if _session.provider is None:
            return
        if _session.sampling is None:
            _session.sampling = SamplingInUse()
        is_ours = _session.instrumented_with is not None
        instruments = is_ours or not DSPyInstrumentor().is_instrumented_by_opentelemetry
        _session.sampling.use(_session.provider, config, instruments=instruments)
    except Exception:
        _logger.warning("Settings of sampling have no effect.", exc_info=True)


def _leave_sampling() -> None:
    if _session.sampling is not None:
        _session.sampling.leave()


def _content_mode_of(config: MLflowDSPyConfig) -> str:
    from opentelemetry.instrumentation.dspy import load_settings

    return load_settings(**config.instrument_arguments()).content_mode.name


def _switch_in_provider(config: MLflowDSPyConfig) -> SwitchableSpanProcessor:
    if _session.switch is None:
        from mlflow_bridge._setup.pausing import pausable_switch
        from mlflow_bridge._setup.provider import joined_or_new_provider
        from mlflow_bridge._spans.tracer_provider import add_processor

        switch = pausable_switch()
        provider = _session.given.tracer or joined_or_new_provider(config)
        add_processor(provider, switch)
        _session.provider, _session.switch = provider, switch
    return _session.switch


def _instrument_dspy(config: MLflowDSPyConfig) -> None:
    from mlflow_bridge._config.resolved import select_nothing
    from mlflow_bridge._setup.instrumentation import (
        changes_selection_only,
        instrument_again,
        selection_in,
        warn_of_unused_instrument_settings,
    )
    from mlflow_bridge._setup.zero_code import adopted_deliveries
    from mlflow_bridge._spans.redaction import held_redaction
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    instrumentor = DSPyInstrumentor()
    if not config.enabled and _session.instrumented_with is None:
        return
    arguments = config.instrument_arguments()
    if not config.enabled:
        # Calls that are under way are recorded to their end.
        arguments["trace_condition"] = select_nothing
    providers = (_session.provider, *_session.given[1:])
    if instrumentor.is_instrumented_by_opentelemetry:
        if _session.instrumented_with is None:
            if any(_session.given):
                _report_other_providers()
            if adopted_deliveries():
                instrument_again(config)
            else:
                warn_of_unused_instrument_settings(config)
            return
        before = _session.instrumented_with
        same_provider = all(map(is_, _session.instrumented_for, providers))
        if same_provider and before == arguments:
            return
        if same_provider and changes_selection_only(before, arguments):
            # Without a moment in which no call is traced.
            instrumentor.select(**selection_in(arguments))
            _session.instrumented_with = arguments
            return
    with held_redaction():
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
        others = {"meter_provider": providers[1], "logger_provider": providers[2]}
        given = {name: value for name, value in others.items() if value is not None}
        tracers = _session.provider
        if _session.sampling is not None:
            tracers = _session.sampling.tracers(tracers)
        instrumentor.instrument(tracer_provider=tracers, **given, **arguments)
    if instrumentor.is_instrumented_by_opentelemetry:
        _session.instrumented_with = arguments
        _session.instrumented_for = providers


def _report_other_providers() -> None:
    from mlflow_bridge._config.base import report_once

    report_once(
        "The providers that autolog() got are not used for calls of DSPy, because DSPy was "
        "instrumented before autolog(). Call DSPyInstrumentor().uninstrument() before autolog()."
    )


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
