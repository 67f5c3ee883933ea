# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A write begins as soon as enough traces have ended, before its batch is full or overdue."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.context import Context

from mlflow_bridge._delivery.spool.spool import Spool
from tests.support.fake_delivery import (
    DeliveryProcessor,
    FakeDelivery,
    closing,
    end_spans,
    wait_until,
)

LONG = 3600.0
REMOTE = trace.set_span_in_context(
    trace.NonRecordingSpan(
        trace.SpanContext(5, 5, is_remote=True, trace_flags=trace.TraceFlags(1))
    ),
    Context(),
)


@pytest.mark.parametrize("write_ahead", [False, True])
def test_so_many_local_roots_are_written_at_once(tmp_path: Path, write_ahead: bool) -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(
        delivery,
        schedule_delay_seconds=LONG,
        trace_buffer_size=3,
        spool=Spool(tmp_path, write_ahead=True) if write_ahead else None,
    )
    with closing(processor) as tracer:
        for _ in range(2):
            names = end_spans(tracer, 3)
            wait_until(lambda names=names: delivery.names[-3:] == names)


def test_a_root_with_a_remote_parent_counts_and_a_step_does_not() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, schedule_delay_seconds=LONG, trace_buffer_size=2)
    with closing(processor) as tracer:
        with tracer.start_as_current_span("first"):
            for _ in range(10):
                tracer.start_span("step").end()
        assert delivery.names == []
        tracer.start_span("served", context=REMOTE).end()
        wait_until(lambda: len(delivery.names) == 12)


def test_with_a_filter_a_finished_trace_is_written_as_well() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(
        delivery, schedule_delay_seconds=LONG, trace_buffer_size=1, traces="genai"
    )
    with closing(processor) as tracer:
        with tracer.start_as_current_span("program", attributes={"dspy.operation": "module"}):
            tracer.start_span("step").end()
        wait_until(lambda: sorted(delivery.names) == ["program", "step"])
