# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The status of a processor after the program has moved to another destination."""

from __future__ import annotations

import gc
import weakref

from opentelemetry.sdk.trace import TracerProvider

import mlflow_bridge
from mlflow_bridge._export.contract import Outcome, Rejected, Sent
from tests.support.fake_delivery import FakeDelivery


def retired_with(outcome: Outcome) -> None:
    delivery = FakeDelivery(outcome)
    delivery.destination_description = "the place before"
    processor = mlflow_bridge.MLflowBatchSpanProcessor(delivery)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("program").start_span("span").end()
    processor.retire()


def known() -> list[tuple[int, str | None]]:
    gc.collect()
    return [
        (status.missing, status.last_error)
        for status in mlflow_bridge.status()
        if status.destination == "the place before"
    ]


def test_missing_spans_of_a_retired_processor_stay_in_the_status() -> None:
    retired_with(Rejected("too old"))
    assert known() == [(1, "too old")]


def test_a_retired_processor_without_missing_spans_is_not_kept() -> None:
    retired_with(Sent(1))
    assert known() == []


def test_the_number_of_kept_processors_is_bounded() -> None:
    for _ in range(20):
        retired_with(Rejected("too old"))
    assert len(known()) == 16


def test_a_retired_processor_keeps_no_successor_alive() -> None:
    first = mlflow_bridge.MLflowBatchSpanProcessor(FakeDelivery(Rejected("too old")))
    second = mlflow_bridge.MLflowBatchSpanProcessor(FakeDelivery())
    first.retire(second)
    gone = weakref.ref(second)
    second.shutdown()
    del second
    gc.collect()
    assert gone() is None
