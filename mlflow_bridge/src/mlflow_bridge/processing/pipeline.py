# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The processors that one destination needs, as one."""

from __future__ import annotations

from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor

from mlflow_bridge.processing.batch import MLflowBatchSpanProcessor
from mlflow_bridge.processing.enrichment import MLflowEnrichmentProcessor
from mlflow_bridge.processing.live import retire


class Pipeline(SynchronousMultiSpanProcessor):
    """Enriches spans and delivers them; can be retired while the program goes on."""

    def __init__(self, batch: MLflowBatchSpanProcessor) -> None:
        super().__init__()
        self._batch = batch
        # It notes which spans are roots here; those are enriched.
        self.add_span_processor(batch)
        self.add_span_processor(MLflowEnrichmentProcessor())

    def retire(self, successor: Pipeline | None) -> None:
        """Deliver what waits, for a bounded time, and stop.

        Spans that are open now are not ended. The successor, which will get their ends, is told of
        them, in case they never end, and gets those spans of whose traces it is not known yet
        whether they are for MLflow.
        """
        if successor is not None:
            successor._batch.take_over(self._batch)
        self._batch.close(end_open_spans=False)
        retire(self._batch)
