# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The processor: the spans that it accepts, their batches, and the outcome of each batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from tests.support.fake_delivery import (
    FAST,
    DeliveryProcessor,
    FakeDelivery,
    closing,
    end_spans,
    wait_until,
)

LONG = 3600.0


def test_spans_are_delivered_in_order_and_in_batches_by_one_thread() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, max_batch_size=10, schedule_delay_seconds=LONG)
    with closing(processor) as tracer:
        names = end_spans(tracer, 25)
        assert processor.force_flush(10_000)
        assert delivery.names == names
        assert [len(batch) for batch in delivery.batches] == [10, 10, 5]
    assert delivery.threads == {"mlflow-bridge-sender"}
    assert delivery.closed == 1


def test_spans_are_sent_after_the_schedule_delay_without_a_flush() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, schedule_delay_seconds=0.01)
    with closing(processor) as tracer:
        names = end_spans(tracer, 3)
        wait_until(lambda: delivery.names == names)


def test_the_destination_is_opened_while_the_first_span_is_under_way() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery)
    with closing(processor) as tracer:
        assert not delivery.warmed_up.is_set()
        span = tracer.start_span("long")
        assert delivery.warmed_up.wait(20)
        span.end()
        assert processor.force_flush(10_000)
    assert delivery.threads == {"mlflow-bridge-sender"}


def test_a_destination_that_cannot_be_opened_yet_is_no_reason_to_give_up() -> None:
    class Closed(FakeDelivery):
        def warm_up(self) -> None:
            super().warm_up()
            raise SystemExit("not now")

    delivery = Closed()
    processor = DeliveryProcessor(delivery)
    with closing(processor) as tracer:
        span = tracer.start_span("span")
        assert delivery.warmed_up.wait(20)
        span.end()
        assert processor.force_flush(10_000)
    assert delivery.names == ["span"]


def test_unsampled_spans_are_not_accepted() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery)
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    end_spans(provider.get_tracer("test"), 3)
    unsampled = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(0))
    processor.on_end(ReadableSpan("unsampled", context=unsampled))
    processor.on_end(ReadableSpan("without a context"))
    assert processor.status().accepted == 0
    processor.shutdown()
    assert delivery.attempts == 0


def test_the_child_of_a_sampled_remote_span_is_accepted() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery)
    with closing(processor) as tracer:
        remote = SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        tracer.start_span("child", set_span_in_context(NonRecordingSpan(remote))).end()
    assert delivery.names == ["child"]


def test_an_unavailable_destination_loses_no_span(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    away = [Retry("connection refused", None)] * 5
    delivery = FakeDelivery(*away)
    processor = DeliveryProcessor(delivery, backoff=FAST)
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        assert processor.force_flush(10_000)
        status = processor.status()
    assert delivery.names == names
    assert (status.retried, status.stored) == (5, 5)
    assert status.last_error == "connection refused"
    warnings = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "the fake store does not accept spans: connection refused" in warnings[0]
    assert "MLFLOW_TRACKING_URI" in warnings[0]
    assert "accepts spans again" in caplog.text


def test_one_failed_attempt_is_no_reason_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    processor = DeliveryProcessor(FakeDelivery(Retry("busy", None)), backoff=FAST)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert processor.force_flush(10_000)
    assert not caplog.records


def test_a_refused_batch_is_counted_and_logged_and_the_next_is_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = FakeDelivery(Rejected("no such experiment"))
    processor = DeliveryProcessor(delivery, max_batch_size=2)
    with closing(processor) as tracer:
        end_spans(tracer, 2, "bad")
        assert not processor.force_flush(10_000)
        names = end_spans(tracer, 2)
        assert processor.force_flush(10_000)
    status = processor.status()
    assert (status.rejected, status.stored) == (2, 2)
    assert delivery.names == names
    refusals = [record for record in caplog.records if "refused" in record.message]
    assert "no such experiment" in refusals[0].message


def test_spans_missing_from_a_sent_batch_count_as_rejected() -> None:
    processor = DeliveryProcessor(FakeDelivery(lambda spans: Sent(len(spans) - 1)))
    with closing(processor) as tracer:
        end_spans(tracer, 5)
        assert not processor.force_flush(10_000)
        assert (processor.status().stored, processor.status().rejected) == (4, 1)


def test_an_exporter_that_raises_is_tried_three_times_and_stops_nothing() -> None:
    errors = [ValueError("a bug"), SystemExit(1), _Unprintable()]
    delivery = FakeDelivery(*errors)
    processor = DeliveryProcessor(delivery, backoff=FAST)
    with closing(processor) as tracer:
        end_spans(tracer, 1, "bad")
        assert not processor.force_flush(10_000)
        names = end_spans(tracer, 1)
        assert processor.force_flush(10_000)
    assert delivery.names == names
    assert processor.status().rejected == 1


class _Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def test_on_end_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        @property
        def context(self) -> SpanContext:
            raise RuntimeError("broken span")

    processor = DeliveryProcessor(FakeDelivery())
    processor.on_end(Broken())  # type: ignore[arg-type]
    assert processor.status().dropped == 1
    assert "RuntimeError" in caplog.text
    processor.shutdown()


def test_sending_makes_no_further_spans() -> None:
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled

    seen: list[bool] = []

    def look(spans: Sequence[ReadableSpan]) -> Outcome:
        seen.append(is_instrumentation_enabled())
        return Sent(len(spans))

    processor = DeliveryProcessor(FakeDelivery(look))
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        processor.force_flush(10_000)
    assert seen == [False]


def test_a_batch_is_never_larger_than_the_queue() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, max_queue_size=3, max_batch_size=512)
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        assert processor.force_flush(10_000)
    assert len(delivery.names) == 3


HTTP = "opentelemetry.instrumentation.fastapi"
DSPY = "opentelemetry.instrumentation.dspy"


def test_traces_without_genai_are_filtered_and_counted() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, traces="genai")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    http, dspy = provider.get_tracer(HTTP), provider.get_tracer(DSPY)
    with http.start_as_current_span("GET /health"):
        http.start_span("query").end()
    with http.start_as_current_span("POST /ask"):
        http.start_span("auth").end()
        assert processor.force_flush(60_000)
        assert processor.status().held == 1
        dspy.start_span("chat").end()
    assert processor.force_flush(60_000)
    status = processor.status()
    assert delivery.names == ["auth", "chat", "POST /ask"]
    assert (status.accepted, status.stored, status.filtered) == (5, 3, 2)
    assert (status.queued, status.held, status.missing) == (0, 0, 0)
    assert processor.close()


def test_at_the_end_undecided_spans_count_as_filtered(caplog: pytest.LogCaptureFixture) -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(delivery, traces="genai")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    root = provider.get_tracer(HTTP).start_span("GET /health")
    provider.get_tracer(HTTP).start_span("query", set_span_in_context(root)).end()
    assert processor.close()
    status = processor.status()
    assert (delivery.names, status.filtered, status.queued) == ([], 2, 0)
    assert caplog.records == []


def test_held_spans_leave_room_for_others() -> None:
    delivery = FakeDelivery()
    processor = DeliveryProcessor(
        delivery, traces="genai", max_queue_size=10, max_batch_size=2, block_seconds=LONG
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    http = provider.get_tracer(HTTP)
    with http.start_as_current_span("a long websocket"):
        for index in range(100):
            http.start_span(f"message {index}").end()
    assert processor.force_flush(60_000)
    # Over the bound, so the trace is sent: no span that may be wanted is lost.
    assert len(delivery.names) == 101
    assert processor.status().filtered == 0
    assert processor.close()
