# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One call for programs that are not started by ``opentelemetry-instrument``.

Nothing but the standard library is imported before the first call.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_bridge.config import MLflowDSPyConfig
    from mlflow_bridge.processing.pipeline import Pipeline
    from mlflow_bridge.processing.providers import AcceptsProcessors
    from mlflow_bridge.processing.switch import SwitchableSpanProcessor

_logger = logging.getLogger(__name__)


@dataclass
class _Session:
    """What `autolog` has set up in this process. Guarded by ``lock``."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    provider: AcceptsProcessors | None = None
    switch: SwitchableSpanProcessor | None = None
    """Added to ``provider`` once, and never taken away again, since a provider offers no way to."""
    pipeline: Pipeline | None = None
    """What is behind the switch."""
    config: MLflowDSPyConfig | None = None
    """Where spans go now; None while nothing is sent."""
    chose_content: bool = False
    instrumented_dspy: bool = False


_session = _Session()


def _renew_lock() -> None:
    """In a forked child: the thread that held the lock, maybe for seconds, is the parent's."""
    _session.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def autolog(tracking_uri: str | None = None, experiment_name: str | None = None) -> None:
    """Trace every DSPy program of this process to MLflow. Idempotent and thread-safe.

    Joins the global tracer provider, or sets one if there is none, and instruments DSPy unless it
    is instrumented already. Inputs and outputs are recorded unless
    ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says otherwise.

    A second call with the same settings does nothing; with others it moves on to the new
    destination, after what was meant for the old one has been delivered there, for which it takes
    at most ``exit_timeout_seconds``. Where ``opentelemetry-instrument`` sends traces to the very
    same destination already, no second delivery is set up.

    Never raises. With a setting that cannot be used, or without MLflow where it is needed, one
    warning says so; DSPy is instrumented all the same, and an earlier destination stays.

    Args:
        tracking_uri: Where traces go; default: ``MLFLOW_TRACKING_URI``, then
            ``sqlite:///mlflow.db``.
        experiment_name: The experiment, created if absent; default: ``MLFLOW_EXPERIMENT_ID`` or
            ``MLFLOW_EXPERIMENT_NAME``, then "Default".
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        _logger.info("autolog() does nothing, because OTEL_SDK_DISABLED is set.")
        return
    with _session.lock:
        try:
            _send_to_mlflow(tracking_uri, experiment_name)
        except Exception as error:
            _warn_about(error)
        try:
            _instrument_dspy()
        except Exception:
            _logger.warning("DSPy could not be instrumented.", exc_info=True)


def disable_autolog() -> None:
    """Undo `autolog`: instrument DSPy no longer, deliver what waits, and send nothing more.

    Delivery takes at most ``exit_timeout_seconds``. A tracer provider that `autolog` set stays
    set, since OpenTelemetry lets no one replace it; `autolog` may be called again. What
    ``opentelemetry-instrument`` or the program itself set up stays as it is.
    """
    from mlflow_bridge.mlflow_tracing import leave_mlflow_tracing

    with _session.lock:
        _uninstrument_dspy()
        _withdraw_content()
        leave_mlflow_tracing()
        _session.config = None
        if _session.switch is not None:
            _session.switch.switch(None)
            from mlflow_bridge.processing.termination import leave_sigterm

            leave_sigterm()
        before, _session.pipeline = _session.pipeline, None
        _retire(before, None)


def _send_to_mlflow(tracking_uri: str | None, experiment_name: str | None) -> None:
    from mlflow_bridge.config import MLflowDSPyConfig
    from mlflow_bridge.mlflow_tracing import join_mlflow_tracing
    from mlflow_bridge.zero_code import default_to_content

    given: dict[str, Any] = {"tracking_uri": tracking_uri, "experiment_name": experiment_name}
    # Also where delivery fails: whoever asks for MLflow wants inputs and outputs on spans.
    mode = default_to_content()
    _session.chose_content = True
    config = MLflowDSPyConfig(**{name: value for name, value in given.items() if value is not None})
    if config == _session.config or _is_adopted(config):
        return
    processors = _processors_for(config)
    before, _session.pipeline = _session.pipeline, processors
    _switch_in_provider().switch(processors)
    _session.config = config
    _retire(before, processors)
    join_mlflow_tracing(_session.provider)
    _logger.info("Traces go to %s (content: %s).", config.destination_description, mode)


def _is_adopted(config: MLflowDSPyConfig) -> bool:
    """Whether opentelemetry-instrument has set up the same destination."""
    from mlflow_bridge.zero_code import adopted_exporters

    return any(
        _destination(exporter.config) == _destination(config) for exporter in adopted_exporters()
    )


def _destination(config: MLflowDSPyConfig) -> tuple[str, str | None, str | None]:
    return config.tracking_uri, config.experiment_id, config.effective_experiment_name


def _processors_for(config: MLflowDSPyConfig) -> Pipeline:
    from mlflow_bridge.export.exporter import MLflowSpanExporter
    from mlflow_bridge.processing.batch import MLflowBatchSpanProcessor
    from mlflow_bridge.processing.pipeline import Pipeline

    exporter = MLflowSpanExporter(config=config)
    # A hook of opentelemetry-instrument that runs later must not adopt this one as well.
    exporter.adopt()
    batch = MLflowBatchSpanProcessor.from_config(exporter, config)
    # The program has said that it will be traced, so there is no need to wait for its first span.
    batch.warm_up()
    if config.flush_on_sigterm:
        from mlflow_bridge.processing.termination import handle_sigterm

        handle_sigterm(config.exit_timeout_seconds)
    return Pipeline(batch)


def _switch_in_provider() -> SwitchableSpanProcessor:
    if _session.switch is None:
        from mlflow_bridge.processing.providers import joined_or_new_provider
        from mlflow_bridge.processing.switch import SwitchableSpanProcessor

        switch = SwitchableSpanProcessor()
        provider = joined_or_new_provider()
        provider.add_span_processor(switch)
        _session.provider, _session.switch = provider, switch
    return _session.switch


def _retire(processors: Pipeline | None, successor: Pipeline | None) -> None:
    """Deliver what these processors still hold, for a bounded time, and close them.

    Spans that are open go on, and belong to the successor if there is one.
    """
    if processors is not None:
        processors.retire(successor)


def _instrument_dspy() -> None:
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    instrumentor = DSPyInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        return
    instrumentor.instrument(tracer_provider=_session.provider)
    _session.instrumented_dspy = instrumentor.is_instrumented_by_opentelemetry


def _uninstrument_dspy() -> None:
    if not _session.instrumented_dspy:
        return
    from opentelemetry.instrumentation.dspy import DSPyInstrumentor

    try:
        DSPyInstrumentor().uninstrument()
    except Exception:
        _logger.warning("DSPy could not be uninstrumented.", exc_info=True)
    _session.instrumented_dspy = False


def _withdraw_content() -> None:
    if not _session.chose_content:
        return
    from mlflow_bridge.zero_code import adopted_exporters
    from opentelemetry.instrumentation.dspy.settings import set_default_content_mode

    _session.chose_content = False
    if not adopted_exporters():
        set_default_content_mode(None)


def _warn_about(error: Exception) -> None:
    from mlflow_bridge.config import ConfigurationError

    stays = _session.config
    now = f"still go to {stays.destination_description}" if stays else "do not go to MLflow"
    if isinstance(error, ConfigurationError):
        _logger.warning("autolog(): %s. Traces %s.", error, now)
    else:
        _logger.warning("autolog() failed; traces %s.", now, exc_info=error)
