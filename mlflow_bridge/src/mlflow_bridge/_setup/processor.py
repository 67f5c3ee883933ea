# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline from a span's start to MLflow as one span processor, built from the settings.

`autolog`, ``opentelemetry-instrument``, a declarative file and a program that sets OpenTelemetry up
by hand all use this class, so that every setting has the same effect.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet, ref

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span

from mlflow_bridge._config.recording import RECORDING_FIELDS
from mlflow_bridge._config.resolved import resolve_config
from mlflow_bridge._config.settings import SAMPLING_FIELDS, ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._delivery.processor import DeliveryProcessor
from mlflow_bridge._delivery.registry import keep_reporting
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import SpanDelivery
from mlflow_bridge._mlflow_tracing.joining import watch_import_of_mlflow
from mlflow_bridge._process.interruption import belongs_to_program, complete
from mlflow_bridge._setup.instrumentation import warn_of_unused_instrument_settings
from mlflow_bridge._setup.logs import use_log_level
from mlflow_bridge._setup.provider import global_provider_of, prepare_provider
from mlflow_bridge._setup.sigterm import handle_sigterm, leave_sigterm
from mlflow_bridge._spans.enrichment import Enrichment
from mlflow_bridge._spans.open_spans import end_unfinished
from mlflow_bridge._spans.redaction import leave_redaction
from mlflow_bridge._spans.tracer_provider import has_ids_by_the_seed
from mlflow_bridge.sampling.entry_point import warn_of_unused_settings
from mlflow_bridge.sampling.tail import TailSampling
from mlflow_bridge.tracking.evaluation_artifacts import EvaluationArtifacts, results_writer

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider


_IMPORT_SECONDS_AT_EXIT: Final = 30.0
"""Longest wait at the end of the process for the import of MLflow, which itself always ends."""

_CHECK_SECONDS: Final = 0.02
_ON_ROOTS: Final = frozenset({"custom_tags", "custom_metadata"})
"""Settings that a running processor writes on the local roots that start from now on."""


class MLflowBatchSpanProcessor(DeliveryProcessor):
    """Span processor that delivers spans to MLflow and implements all settings of the delivery.

    It writes session, user, tags and run on the first span of a trace. It filters traces without a
    DSPy or GenAI span, queues spans, delivers them in order, and keeps spans on disk while MLflow
    cannot take them. It may be added before or after other span processors.

    OpenTelemetry does not tell a processor its tracer provider. At the first trace of the global
    provider, the processor makes that provider generate ids that ``random.seed()`` does not repeat,
    and joins MLflow's own tracing to it. It warns if the provider ignores sampling settings.
    A provider that is not global, and the first trace of any provider, need the provider arguments
    ``id_generator=SystemRandomIdGenerator()`` and ``sampler=DSPySampler()``.

    Args:
        config_or_exporter: The settings; or an `MLflowSpanExporter`, whose settings are used; or
            another `SpanDelivery`. Default: the settings of the environment.
        tail: Which of the ended traces go to MLflow. Default: the settings of tail sampling.
        meter_provider: Meter provider for the metrics of the processor; None for the global one.

    Raises:
        ConfigurationError: The given settings need MLflow, which is not installed; or an argument
            has another type. A wrong environment variable is logged, not raised.

    Example:
        >>> provider = TracerProvider(
        ...     sampler=DSPySampler(), id_generator=SystemRandomIdGenerator()
        ... )  # doctest: +SKIP
        >>> provider.add_span_processor(MLflowBatchSpanProcessor())  # doctest: +SKIP
    """

    def __init__(
        self,
        config_or_exporter: MLflowDSPyConfig | SpanDelivery | None = None,
        *,
        tail: TailSampling | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        # First: the sender's thread may import MLflow as soon as there are spans.
        watch_import_of_mlflow()
        exporter = _exporter_from(config_or_exporter)
        self._config = config = _config_of(exporter)
        if config.log_level is not None:
            use_log_level(config.log_level)
        # Weak, so that a processor that a program has dropped is freed at once.
        this = ref(self)
        self._enrichment = Enrichment(
            lambda span_id: None if (it := this()) is None else it._open.get(span_id),
            config.custom_tags,
            config.custom_metadata,
        )
        self._use(config)
        is_refused = _obstacle_of(exporter) is not None
        # Before the processor, so that it waits after the processor when the interpreter exits.
        self._artifacts = _artifacts_of(exporter, config)
        super().__init__(
            exporter,
            max_queue_size=config.max_queue_size,
            max_queue_bytes=config.max_queue_bytes,
            max_batch_size=config.max_batch_size,
            schedule_delay_seconds=config.schedule_delay_seconds,
            trace_buffer_size=config.trace_buffer_size,
            exit_timeout_seconds=config.exit_timeout_seconds,
            block_seconds=config.block_seconds,
            # Settings without a usable destination have no spool.
            spool=None if is_refused else Spool.from_config(config),
            overflow_policy=config.overflow,
            max_spill_queue_size=config.max_spill_queue_size,
            max_spill_queue_bytes=config.max_spill_queue_bytes,
            traces=config.traces,
            drop_asgi_io_spans=config.drop_asgi_io_spans,
            tail=_checked(tail) or TailSampling.from_config(config),
            is_refused=is_refused,
            meter_provider=meter_provider,
        )
        if config.flush_on_sigterm:
            handle_sigterm(
                self,
                config.exit_timeout_seconds,
                is_asked_for="flush_on_sigterm" in config.model_fields_set,
            )
        if not config.enabled:
            leave_redaction(self)
            # In place of the methods, so that a processor that is on does no step more.
            vars(self).update(on_start=_ignore, on_end=_ignore)

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._config

    @property
    def is_closed(self) -> bool:
        """Whether the processor was shut down, for example together with its tracer provider."""
        return self._closed

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Register an open span, and enrich the first span of its trace.

        Raises only what a signal handler has raised.
        """
        super().on_start(span, parent_context)
        try:
            if self._enrichment.enrich(span, parent_context) and self not in _joined:
                self._join(span)
        except BaseException:
            # The program does not get the span, so it cannot end it.
            complete(lambda: end_unfinished(span))
            raise

    def _use(self, config: MLflowDSPyConfig) -> None:
        self._config = config
        self._enrichment.put_on_every_trace(config.custom_tags, config.custom_metadata)
        self._enrichment.log_runs(evaluations=config.log_evals, compiles=config.log_compiles)

    def retire(self, successor: MLflowBatchSpanProcessor | None = None) -> None:
        """Deliver waiting spans for at most ``exit_timeout_seconds``, and stop.

        For a running program that replaces its processor. Open spans are not ended.

        Args:
            successor: The processor that gets open spans when they end. It takes over the register
                of open spans, and the held spans of traces that are not yet known to be for MLflow.
        """
        if successor is not None:
            successor._take_over(self)
        self.close(end_open_spans=False)
        if successor is not None:  # again: this processor has decided on further traces since
            successor._follow(self)
        leave_sigterm(self)
        keep_reporting(self)

    def close(self, timeout_seconds: float | None = None, *, end_open_spans: bool = True) -> bool:
        """Deliver the waiting spans and the artifacts of runs, then stop. Idempotent.

        Args:
            timeout_seconds: The longest to wait for spans, if that is less than
                ``exit_timeout_seconds``.
            end_open_spans: Whether open spans are ended and delivered, too.

        Returns:
            True if every span that was still on its way is stored or in the spool.
        """
        complete = super().close(timeout_seconds, end_open_spans=end_open_spans)
        seconds = self._exit_timeout if timeout_seconds is None else timeout_seconds
        self._artifacts.close(min(seconds, self._exit_timeout))
        return complete

    @property
    def import_seconds(self) -> float:
        """Longest wait of the end of the process for MLflow's import, in seconds; 0 for no wait.

        The import begins with the first span for MLflow, so that other processes do without it. A
        program that ends soon after its first span must not lose the span by that, so this time
        does not count towards ``exit_timeout_seconds``. If the process does not end by itself, and
        may be killed soon, the spans are safer in the spool.
        """
        if self._closed or getattr(self._delivery, "is_loaded", True):
            return 0.0
        exits = not threading.main_thread().is_alive()
        is_needed = self._expects_spans or self._slots.used > self._collector.held
        may_wait = exits or self._spool is None
        return _IMPORT_SECONDS_AT_EXIT if may_wait and is_needed and self._exit_timeout else 0.0

    def _deadline(self, timeout_seconds: float | None) -> float:
        self._await_import(timeout_seconds)
        return super()._deadline(timeout_seconds)

    def _await_import(self, timeout_seconds: float | None) -> None:
        """Wait for MLflow's import on the sender's thread, if there is a span for MLflow."""
        # The sender begins the import at the latest when it gets a span.
        if self.import_seconds:
            self._collector.flush(self._exit_timeout)
        seconds = self.import_seconds
        if timeout_seconds is not None:
            seconds = min(seconds, timeout_seconds)
        until = time.monotonic() + seconds
        # Not by an event: a signal handler may call this inside of any lock.
        while self.import_seconds and time.monotonic() < until:
            time.sleep(_CHECK_SECONDS)

    def _begin(self) -> None:
        super()._begin()
        # A program that adds the processor by hand instruments DSPy by hand, too.
        warn_of_unused_instrument_settings(self._config)

    def _join(self, span: Span) -> None:
        """Prepare the tracer provider of this span, if it is the global provider."""
        try:
            provider = global_provider_of(span)
            if provider is None:
                return
            if has_ids_by_the_seed(provider):
                _late.add(self)
            warn_of_unused_settings(provider, self._config)
            if prepare_provider(provider):
                _joined.add(self)
        except Exception as error:
            if belongs_to_program(error):
                raise
            self._log.warning("provider", "The tracer provider cannot be prepared: %r", error)


def _ignore(span: ReadableSpan, parent_context: Context | None = None) -> None:
    """The methods of a processor with ``enabled=False``."""


_joined: WeakSet[MLflowBatchSpanProcessor] = WeakSet()
_late: WeakSet[MLflowBatchSpanProcessor] = WeakSet()
"""Processors whose provider made an id that a seed repeats, before the provider was prepared."""


def join_provider(processor: MLflowBatchSpanProcessor, provider: object) -> None:
    """Prepare a tracer provider to which a processor has been added. May be repeated."""
    _joined.add(processor)
    prepare_provider(provider)


def is_joined(processor: MLflowBatchSpanProcessor) -> bool:
    """Whether the tracer provider of a processor is known and prepared."""
    return processor in _joined


def was_late(processor: MLflowBatchSpanProcessor) -> bool:
    """Whether the first trace of a processor has an id that ``random.seed()`` repeats."""
    return processor in _late


def _exporter_from(given: Any) -> SpanDelivery:
    """The exporter for this first argument of a processor.

    Raises:
        ConfigurationError: The argument has a type that is not accepted.
    """
    # Imported here, since only processes that deliver need the mapping to MLflow.
    from mlflow_bridge._export.exporter import MLflowSpanExporter, claim

    if given is None or isinstance(given, MLflowDSPyConfig):
        given = MLflowSpanExporter() if given is None else MLflowSpanExporter(config=given)
    if not callable(getattr(given, "deliver", None)):
        raise ConfigurationError(
            f"config_or_exporter is a {type(given).__name__}; accepted: an MLflowDSPyConfig, an "
            "MLflowSpanExporter, another SpanDelivery, or None. Settings are arguments of "
            "MLflowDSPyConfig"
        )
    claim(given)
    return given


def _artifacts_of(exporter: SpanDelivery, config: MLflowDSPyConfig) -> EvaluationArtifacts:
    write = results_writer(config.tracking_uri)
    artifacts = EvaluationArtifacts(write, config.exit_timeout_seconds)
    runs: Any = getattr(exporter, "_runs", None)
    if runs is not None:
        runs.on_evaluation_ended = artifacts.add
    return artifacts


def flush_artifacts(processor: object, seconds: float) -> bool:
    """Wait until the ended runs that a processor has delivered have their artifacts.

    Args:
        processor: A processor of spans.
        seconds: The longest to wait.
    """
    if not isinstance(processor, MLflowBatchSpanProcessor):
        return True
    return processor._artifacts.flush(seconds)  # type: ignore[reportPrivateUsage]


def records_otherwise(processor: MLflowBatchSpanProcessor | None, config: MLflowDSPyConfig) -> bool:
    """Give a processor settings that differ from its own only in what spans record.

    Tags and metadata of every trace are among them.

    Returns:
        Whether they differ in nothing else. If not, the processor keeps its settings.
    """
    if processor is None:
        return False
    before = processor.config
    names = type(config).model_fields.keys() - RECORDING_FIELDS - set(SAMPLING_FIELDS) - _ON_ROOTS
    if any(getattr(before, name) != getattr(config, name) for name in names):
        return False
    processor._use(config)  # type: ignore[reportPrivateUsage]
    return True


def _checked(tail: Any) -> TailSampling | None:
    if tail is not None and not isinstance(tail, TailSampling):
        raise ConfigurationError(
            f"tail is a {type(tail).__name__}; accepted: a TailSampling, or None"
        )
    return tail


def _config_of(exporter: SpanDelivery) -> MLflowDSPyConfig:
    config: object = getattr(exporter, "config", None)
    return config if isinstance(config, MLflowDSPyConfig) else resolve_config({}).config


def _obstacle_of(exporter: SpanDelivery) -> str | None:
    return getattr(exporter, "obstacle", None)
