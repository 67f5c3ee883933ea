# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The hook that ``opentelemetry-instrument`` calls at the start of a program.

``opentelemetry-instrument`` puts each exporter behind the SDK's batch processor, which drops spans
if its queue is full or an export fails. A declarative file cannot name another processor either.
So the hook, which runs after the tracer provider is set up, adds the bridge's processor for every
MLflow exporter. The exporter then ignores spans from the SDK's processor. If the hook does not run,
the exporter works as it was set up.

The hook runs in every process under ``opentelemetry-instrument``, so this module imports no large
package before it has found such an exporter. MLflow is not imported here at all, and the store is
not opened: most of these processes make no trace.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlflow_bridge._config.settings import MLflowDSPyConfig
    from mlflow_bridge._export.exporter import MLflowSpanExporter
    from mlflow_bridge._spans.tracer_provider import AcceptsProcessors

_logger = logging.getLogger(__name__)

_EXPORTER_MODULE: Final = "mlflow_bridge._export.exporter"


class AdoptedDelivery:
    """The bridge's processor in place of the processor that the SDK has put around an exporter."""

    def __init__(self, exporter: MLflowSpanExporter, provider: AcceptsProcessors) -> None:
        from mlflow_bridge._export.exporter import adopt
        from mlflow_bridge._setup.pausing import BY_SETTING, pausable_switch, pause
        from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor
        from mlflow_bridge._spans.tracer_provider import add_processor

        self._exporter = exporter
        self._provider = provider
        self._switch = pausable_switch()
        self._processor = MLflowBatchSpanProcessor(exporter)
        if not self._processor.config.enabled:
            pause(BY_SETTING)
        self._switch.switch(self._processor)
        add_processor(provider, self._switch)
        # After the processor is added: in the other order, a span that ends in between would be
        # lost. A span that is sent twice is stored once.
        adopt(exporter)

    @property
    def config(self) -> MLflowDSPyConfig:
        """The settings in use."""
        return self._processor.config

    @property
    def provider(self) -> AcceptsProcessors:
        """The tracer provider that has the processor."""
        return self._provider

    @property
    def is_usable(self) -> bool:
        """Whether spans can be delivered with these settings."""
        return self._exporter.obstacle is None

    @property
    def is_shut_down(self) -> bool:
        """Whether the program has shut down the processor, with its tracer provider."""
        return self._processor.is_closed

    def join(self) -> None:
        """Prepare the tracer provider, after the processors of all exporters have been added."""
        from mlflow_bridge._setup.processor import join_provider
        from mlflow_bridge.sampling.entry_point import warn_of_unused_settings

        join_provider(self._processor, self._provider)
        warn_of_unused_settings(self._provider, self.config)

    def reconfigure(self, config: MLflowDSPyConfig) -> None:
        """Deliver further spans by these settings; do nothing if they are unchanged.

        If the program has shut the tracer provider down, the delivery is added to it again.
        """
        from mlflow_bridge._setup.processor import MLflowBatchSpanProcessor, records_otherwise
        from mlflow_bridge.sampling.entry_point import use_sampling

        use_sampling(self._provider, config)
        before = self._processor
        is_used = not before.is_closed and before.config.enabled
        if is_used and (config == before.config or records_otherwise(before, config)):
            return
        self._processor = MLflowBatchSpanProcessor(config)
        if before.is_closed:
            self._add_again()
        self._switch.switch(self._processor)
        before.retire(self._processor)
        self.join()

    def _add_again(self) -> None:
        from mlflow_bridge._mlflow_tracing.joining import leave_provider
        from mlflow_bridge._setup.pausing import pausable_switch
        from mlflow_bridge._spans.tracer_provider import add_processor

        # The provider may still have the old switch, and a span must not be delivered twice.
        self._switch.switch(None)
        self._switch = pausable_switch()
        add_processor(self._provider, self._switch)
        leave_provider()


_adopted: list[AdoptedDelivery] = []


def adopt_exporters() -> None:
    """Put the bridge's processors around its exporters. Never raises.

    This is the entry point ``opentelemetry_pre_instrument``. If it raised, no instrumentation would
    be loaded.
    """
    if _EXPORTER_MODULE not in sys.modules:
        return
    try:
        _adopt_all()
    except Exception:
        _logger.warning(
            "The MLflow exporter stays behind OpenTelemetry's own batch processor, which loses "
            "spans under load (OTEL_TRACES_EXPORTER=mlflow).",
            exc_info=True,
        )


def adopted_deliveries() -> tuple[AdoptedDelivery, ...]:
    """The deliveries with usable settings that the hook has set up in this process."""
    return tuple(delivery for delivery in _adopted if delivery.is_usable)


def adopted_delivery(config: MLflowDSPyConfig) -> AdoptedDelivery | None:
    """The delivery to the same destination that the hook has set up; None if there is none."""
    wanted = _destination(config)
    found = (one for one in adopted_deliveries() if _destination(one.config) == wanted)
    return next(found, None)


def _destination(config: MLflowDSPyConfig) -> tuple[str, str | None, str | None]:
    return config.tracking_uri, config.experiment_id, config.effective_experiment_name


def _adopt_all() -> None:
    from mlflow_bridge._export.exporter import is_claimed, live_exporters

    exporters = [exporter for exporter in live_exporters() if not is_claimed(exporter)]
    if not exporters:
        return

    from opentelemetry import trace

    from mlflow_bridge._setup.instrumentation import set_instrument_defaults
    from mlflow_bridge._setup.logs import log_start
    from mlflow_bridge._spans.tracer_provider import accepts_processors
    from mlflow_bridge.sampling.entry_point import put_sampler_in

    provider: object = trace.get_tracer_provider()
    if not accepts_processors(provider):
        _logger.warning(
            "The tracer provider (%s) takes no span processors: the MLflow exporter is used as it "
            "was set up.",
            type(provider).__qualname__,
        )
        return
    deliveries = [AdoptedDelivery(exporter, provider) for exporter in exporters]
    _adopted.extend(deliveries)
    usable = [delivery for delivery in deliveries if delivery.is_usable]
    if not usable:
        return
    put_sampler_in(provider, usable[0].config)
    mode = set_instrument_defaults([delivery.config for delivery in usable])
    for delivery in usable:
        log_start(
            _logger,
            delivery.config,
            door="opentelemetry-instrument",
            content=mode,
            provider=provider,
        )
        delivery.join()
