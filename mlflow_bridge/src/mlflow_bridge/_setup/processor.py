# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline from a span's start to MLflow as one span processor, made by the settings alone.

This is the one place that builds it: `autolog`, ``opentelemetry-instrument``, a declarative file
and a program that sets OpenTelemetry up by hand all use this class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span

from mlflow_bridge._config.resolved import resolve_config
from mlflow_bridge._config.settings import ConfigurationError, MLflowDSPyConfig
from mlflow_bridge._delivery.processor import DeliveryProcessor
from mlflow_bridge._delivery.registry import keep_reporting
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import SpanDelivery
from mlflow_bridge._setup.instrumentation import warn_of_unused_instrument_settings
from mlflow_bridge._setup.provider import global_provider_of, prepare_provider
from mlflow_bridge._setup.sigterm import handle_sigterm, leave_sigterm
from mlflow_bridge._spans.enrichment import Enrichment
from mlflow_bridge._spans.tracer_provider import has_ids_by_the_seed

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider


class MLflowBatchSpanProcessor(DeliveryProcessor):
    """Takes spans to MLflow, and carries out every setting that is about it.

    It writes session, user, tags and run on the first span of a trace, leaves out traces without a
    DSPy or GenAI span, queues spans, keeps on disk what MLflow cannot take, and delivers the rest
    in order. It may be added before or after other span processors.

    A processor is not told its tracer provider. When the first trace begins whose provider is the
    global one, the processor has it make ids that ``random.seed()`` does not repeat, joins MLflow's
    own tracing to it, and warns if sampling settings have no effect there. A provider that is not
    the global one, and the first trace of any, need ``id_generator=SystemRandomIdGenerator()`` and
    ``sampler=DSPySampler()`` as arguments of the provider.

    Args:
        config_or_exporter: The settings; or an `MLflowSpanExporter`, which brings its settings with
            it; or another `SpanDelivery`. Default: the settings of the environment.
        meter_provider: Where the metrics of the processor go; the global one if None.

    Raises:
        ConfigurationError: MLflow is needed for the settings that are given, and is not installed;
            or the first argument is of another type. What is wrong in the environment raises
            nothing, and is in the log.

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
        meter_provider: MeterProvider | None = None,
    ) -> None:
        exporter = _exporter_from(config_or_exporter)
        self._config = config = _config_of(exporter)
        self._enrichment = Enrichment()
        is_refused = _obstacle_of(exporter) is not None
        super().__init__(
            exporter,
            max_queue_size=config.max_queue_size,
            max_batch_size=config.max_batch_size,
            schedule_delay_seconds=config.schedule_delay_seconds,
            exit_timeout_seconds=config.exit_timeout_seconds,
            block_seconds=config.block_seconds,
            # Settings without a usable destination have no spool.
            spool=None if is_refused else Spool.from_config(config),
            overflow_policy=config.overflow,
            max_spill_queue_size=config.max_spill_queue_size,
            traces=config.traces,
            is_refused=is_refused,
            meter_provider=meter_provider,
        )
        if config.flush_on_sigterm:
            handle_sigterm(self, config.exit_timeout_seconds)

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._config

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember the span, and write down what is known of its trace. Never raises."""
        super().on_start(span, parent_context)
        if self._enrichment.enrich(span, parent_context) and self not in _joined:
            self._join(span)

    def retire(self, successor: MLflowBatchSpanProcessor | None = None) -> None:
        """Deliver what waits, for a bounded time, and stop, while the program goes on.

        For a program that replaces its processor. Spans that are open now are not ended.

        Args:
            successor: Will get the ends of open spans. It is told of them, in case they never end,
                and gets those spans of whose traces it is not known yet whether they are for
                MLflow.
        """
        if successor is not None:
            successor._take_over(self)
        self.close(end_open_spans=False)
        if successor is not None:  # once more: it has decided on further traces since
            successor._follow(self)
        leave_sigterm(self)
        keep_reporting(self)

    def _begin(self) -> None:
        super()._begin()
        # A program that adds the processor by hand instruments DSPy by hand, too.
        warn_of_unused_instrument_settings(self._config)

    def _join(self, span: Span) -> None:
        """Prepare the tracer provider that this span is of, if that is the global one."""
        try:
            provider = global_provider_of(span)
            if provider is None:
                return
            if has_ids_by_the_seed(provider):
                _late.add(self)
            if prepare_provider(provider, self._config):
                _joined.add(self)
        except Exception as error:
            self._log.warning("provider", "The tracer provider cannot be prepared: %r", error)


_joined: WeakSet[MLflowBatchSpanProcessor] = WeakSet()
_late: WeakSet[MLflowBatchSpanProcessor] = WeakSet()
"""Those whose provider had made an id that a seed repeats before it was prepared."""


def join_provider(processor: MLflowBatchSpanProcessor, provider: object) -> None:
    """Prepare a tracer provider to which a processor has been added. May be repeated."""
    _joined.add(processor)
    prepare_provider(provider, processor.config)


def is_joined(processor: MLflowBatchSpanProcessor) -> bool:
    """Whether the tracer provider of a processor is known, and was prepared."""
    return processor in _joined


def was_late(processor: MLflowBatchSpanProcessor) -> bool:
    """Whether the first trace of a processor has an id that ``random.seed()`` repeats."""
    return processor in _late


def _exporter_from(given: Any) -> SpanDelivery:
    """The exporter of a processor that is made with this first argument."""
    # Here: its import of MLflow's dialect is for processes that deliver.
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


def _config_of(exporter: SpanDelivery) -> MLflowDSPyConfig:
    config: object = getattr(exporter, "config", None)
    return config if isinstance(config, MLflowDSPyConfig) else resolve_config({}).config


def _obstacle_of(exporter: SpanDelivery) -> str | None:
    return getattr(exporter, "obstacle", None)
