# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from mlflow_bridge.export.outcomes import Outcome, Rejected, Retry, Sent
from mlflow_bridge.processing.batch import MLflowBatchSpanProcessor
from tests.unit.bridge.processing.fakes import (
    FAST,
    PATIENCE,
    FakeDelivery,
    HangingDelivery,
    ListOverflow,
    closing,
    tracer_for,
    wait_until,
)

LONG = 3600.0


def end_spans(tracer: Tracer, count: int, prefix: str = "span") -> list[str]:
    names = [f"{prefix} {index}" for index in range(count)]
    for name in names:
        tracer.start_span(name).end()
    return names


def test_is_a_batch_span_processor_for_whoever_asks() -> None:
    processor = MLflowBatchSpanProcessor(FakeDelivery())
    assert isinstance(processor, BatchSpanProcessor)
    processor.shutdown()


def test_delivers_in_order_and_in_batches_from_one_thread_of_its_own() -> None:
    delivery = FakeDelivery()
    processor = MLflowBatchSpanProcessor(delivery, max_batch_size=10, schedule_delay_seconds=LONG)
    with closing(processor) as tracer:
        names = end_spans(tracer, 25)
        assert processor.force_flush(10_000)
        assert delivery.names == names
        assert [len(batch) for batch in delivery.batches] == [10, 10, 5]
    assert delivery.threads == {"mlflow-bridge-sender"}
    assert delivery.closed == 1


def test_sends_after_the_schedule_delay_without_a_flush() -> None:
    delivery = FakeDelivery()
    processor = MLflowBatchSpanProcessor(delivery, schedule_delay_seconds=0.01)
    with closing(processor) as tracer:
        names = end_spans(tracer, 3)
        wait_until(lambda: delivery.names == names)


def test_the_destination_is_opened_while_the_first_span_is_under_way() -> None:
    delivery = FakeDelivery()
    processor = MLflowBatchSpanProcessor(delivery)
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
    processor = MLflowBatchSpanProcessor(delivery)
    with closing(processor) as tracer:
        span = tracer.start_span("span")
        assert delivery.warmed_up.wait(20)
        span.end()
        assert processor.force_flush(10_000)
    assert delivery.names == ["span"]


def test_unsampled_spans_are_not_accepted() -> None:
    delivery = FakeDelivery()
    processor = MLflowBatchSpanProcessor(delivery)
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
    processor = MLflowBatchSpanProcessor(delivery)
    with closing(processor) as tracer:
        remote = SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        tracer.start_span("child", set_span_in_context(NonRecordingSpan(remote))).end()
    assert delivery.names == ["child"]


@pytest.mark.parametrize("threads", [1, 8])
def test_a_burst_beyond_the_queue_loses_nothing_with_a_slow_destination(threads: int) -> None:
    delivery = FakeDelivery(seconds=0.0005)
    processor = MLflowBatchSpanProcessor(
        delivery, max_queue_size=100, max_batch_size=20, block_seconds=20.0
    )
    each = 4_000 // threads
    with closing(processor) as tracer:
        workers = [
            threading.Thread(target=end_spans, args=(tracer, each, f"thread {number}"))
            for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert processor.force_flush(20_000)
        status = processor.status()
    assert (status.accepted, status.stored, status.dropped) == (4_000, 4_000, 0)
    assert len(set(delivery.names)) == 4_000


def test_a_full_queue_goes_to_the_overflow_by_a_thread_of_ours() -> None:
    threads: set[str] = set()

    class Watched(ListOverflow):
        def accept(self, spans: Sequence[ReadableSpan]) -> bool:
            threads.add(threading.current_thread().name)
            return super().accept(spans)

    delivery, overflow = HangingDelivery(), Watched()
    processor = MLflowBatchSpanProcessor(
        delivery, max_queue_size=4, block_seconds=LONG, overflow=overflow
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 10)
        wait_until(lambda: overflow.names == names[4:])
        wait_until(lambda: processor.status().spilled == 6)
        assert threads == {"mlflow-bridge-spill"}
        status = processor.status()
        assert (status.accepted, status.queued, status.dropped) == (10, 4, 0)
        delivery.release.set()
        assert processor.force_flush(10_000)
    assert delivery.names == names[:4]


def test_the_policy_to_block_waits_for_a_slot_and_spills_nothing() -> None:
    delivery, overflow = FakeDelivery(seconds=0.0005), ListOverflow()
    processor = MLflowBatchSpanProcessor(
        delivery,
        max_queue_size=10,
        block_seconds=LONG,
        overflow=overflow,
        overflow_policy="block",
        schedule_delay_seconds=0.001,
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 500)
        assert processor.force_flush(60_000)
        assert (processor.status().stored, processor.status().spilled) == (500, 0)
    assert sorted(delivery.names) == sorted(names)


async def test_the_policy_to_block_spills_on_the_thread_of_an_event_loop() -> None:
    delivery, overflow = HangingDelivery(), ListOverflow()
    processor = MLflowBatchSpanProcessor(
        delivery,
        max_queue_size=2,
        block_seconds=LONG,
        overflow=overflow,
        overflow_policy="block",
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        wait_until(lambda: overflow.names == names[2:])
        delivery.release.set()


def test_after_a_wait_in_vain_the_policy_to_block_spills() -> None:
    delivery, overflow = HangingDelivery(), ListOverflow()
    processor = MLflowBatchSpanProcessor(
        delivery,
        max_queue_size=2,
        block_seconds=0.01,
        overflow=overflow,
        overflow_policy="block",
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        wait_until(lambda: overflow.names == names[2:])
        assert processor.status().dropped == 0
        delivery.release.set()


def test_without_room_anywhere_spans_are_lost_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(
        delivery,
        max_queue_size=4,
        block_seconds=0.0,
        overflow=ListOverflow(room=0),
        max_spill_queue_size=2,
    )
    with closing(processor) as tracer:
        end_spans(tracer, 10)
        status = processor.status()
        assert (status.accepted, status.queued, status.spilled, status.dropped) == (6, 6, 0, 4)
        warnings = [record for record in caplog.records if "lost" in record.message]
        assert len(warnings) == 1
        assert "the fake store" in warnings[0].message
        assert "max_queue_size" in warnings[0].message
        assert "max_spill_queue_size" in warnings[0].message
        delivery.release.set()


def test_what_the_overflow_refuses_is_queued_again_when_there_is_room() -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(delivery, max_queue_size=2, overflow=ListOverflow(room=0))
    with closing(processor) as tracer:
        names = end_spans(tracer, 10)
        assert processor.status().queued == 10
        delivery.release.set()
        wait_until(lambda: processor.force_flush(1_000))
        status = processor.status()
        assert (status.stored, status.spilled, status.dropped) == (10, 0, 0)
    assert sorted(delivery.names) == sorted(names)


def test_what_neither_destination_nor_overflow_took_is_counted_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(
        delivery, max_queue_size=2, overflow=ListOverflow(room=0), exit_timeout_seconds=0.05
    )
    with closing(processor) as tracer:
        end_spans(tracer, 100)
        assert processor.close() is False
        status = processor.status()
        assert (status.accepted, status.queued, status.dropped) == (100, 0, 100)
        assert "100 of 100 spans are not in the fake store: 100 lost" in caplog.text
        delivery.release.set()


def test_an_overflow_that_hangs_does_not_hold_up_the_end() -> None:
    class Hanging(ListOverflow):
        release = threading.Event()

        def accept(self, spans: Sequence[ReadableSpan]) -> bool:
            if threading.current_thread().name == "mlflow-bridge-spill":
                self.release.wait(PATIENCE)
            return super().accept(spans)

    delivery, overflow = HangingDelivery(), Hanging()
    processor = MLflowBatchSpanProcessor(
        delivery, max_queue_size=1, overflow=overflow, exit_timeout_seconds=0.05
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 100)
        assert processor.close() is True
        assert sorted(overflow.names) == sorted(names)
        status = processor.status()
        assert (status.accepted, status.spilled, status.dropped) == (100, 100, 0)
        Hanging.release.set()
        delivery.release.set()


def test_after_one_wait_in_vain_nobody_waits_before_the_queue_moves() -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(delivery, max_queue_size=1, block_seconds=0.05)
    with closing(processor) as tracer:
        # With a wait for each of them this would take more than a minute.
        end_spans(tracer, 1_500)
        assert processor.status().dropped == 1_499
        delivery.release.set()
        assert processor.force_flush(10_000)
        end_spans(tracer, 1)
        assert processor.force_flush(10_000)
        assert processor.status().stored == 2


async def test_a_thread_with_a_running_event_loop_never_waits() -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(delivery, max_queue_size=1, block_seconds=LONG)
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        assert processor.status().dropped == 2
        delivery.release.set()


def test_the_sender_itself_never_waits_for_a_slot() -> None:
    processor: MLflowBatchSpanProcessor

    def end_a_span_while_sending(spans: Sequence[ReadableSpan]) -> Outcome:
        processor.on_end(spans[0])
        return Sent(len(spans))

    processor = MLflowBatchSpanProcessor(
        FakeDelivery(end_a_span_while_sending), max_queue_size=1, block_seconds=LONG
    )
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert processor.force_flush(10_000)
        assert (processor.status().stored, processor.status().dropped) == (1, 1)


def test_a_destination_that_is_away_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    away = [Retry("connection refused", None)] * 5
    delivery = FakeDelivery(*away)
    processor = MLflowBatchSpanProcessor(delivery, backoff=FAST)
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
    processor = MLflowBatchSpanProcessor(FakeDelivery(Retry("busy", None)), backoff=FAST)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert processor.force_flush(10_000)
    assert not caplog.records


def test_a_refused_batch_is_counted_and_said_and_the_next_goes_through(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = FakeDelivery(Rejected("no such experiment"))
    processor = MLflowBatchSpanProcessor(delivery, max_batch_size=2)
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
    processor = MLflowBatchSpanProcessor(FakeDelivery(lambda spans: Sent(len(spans) - 1)))
    with closing(processor) as tracer:
        end_spans(tracer, 5)
        assert not processor.force_flush(10_000)
        assert (processor.status().stored, processor.status().rejected) == (4, 1)


def test_an_exporter_that_raises_is_tried_three_times_and_stops_nothing() -> None:
    errors = [ValueError("a bug"), SystemExit(1), _Unprintable()]
    delivery = FakeDelivery(*errors)
    processor = MLflowBatchSpanProcessor(delivery, backoff=FAST)
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

    processor = MLflowBatchSpanProcessor(FakeDelivery())
    processor.on_end(Broken())  # type: ignore[arg-type]
    assert processor.status().dropped == 1
    assert "RuntimeError" in caplog.text
    processor.shutdown()


def test_force_flush_is_false_when_time_runs_out_and_returns_then() -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(delivery)
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        assert processor.force_flush(20) is False
        delivery.release.set()
        assert processor.force_flush(10_000) is True


def test_force_flush_with_nothing_to_do_is_true() -> None:
    processor = MLflowBatchSpanProcessor(FakeDelivery())
    assert processor.force_flush(10_000)
    processor.shutdown()
    assert processor.force_flush(10_000)


def test_force_flush_answers_for_what_is_on_its_way_only() -> None:
    delivery = FakeDelivery(Rejected("bad"))
    processor = MLflowBatchSpanProcessor(delivery)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert not processor.force_flush(10_000)
        assert processor.force_flush(10_000)


def test_force_flush_does_not_wait_for_what_ends_after_it() -> None:
    entered, release = threading.Event(), threading.Event()

    def second_batch(spans: Sequence[ReadableSpan]) -> Outcome:
        entered.set()
        release.wait(20)
        return Sent(len(spans))

    processor = MLflowBatchSpanProcessor(
        FakeDelivery(lambda spans: Sent(len(spans)), second_batch),
        max_batch_size=2,
        schedule_delay_seconds=LONG,
    )
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        assert processor.force_flush(10_000)
        end_spans(tracer, 2, "later")
        assert entered.wait(20)
        release.set()


def test_shutdown_delivers_what_waits_and_is_idempotent() -> None:
    delivery = FakeDelivery()
    processor = MLflowBatchSpanProcessor(delivery, schedule_delay_seconds=LONG)
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        assert processor.close() is True
        processor.shutdown()
        assert processor.close() is True
    assert delivery.names == names
    assert delivery.closed == 1


def test_shutdown_makes_a_last_attempt_before_the_next_one_is_due() -> None:
    delivery = FakeDelivery(Retry("away", None))
    processor = MLflowBatchSpanProcessor(delivery)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        wait_until(lambda: processor.status().queued == 1)
        assert processor.close() is True
    assert processor.status().stored == 1


def test_shutdown_does_not_wait_for_a_destination_that_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(delivery, max_batch_size=2, exit_timeout_seconds=0.05)
    with closing(processor) as tracer:
        end_spans(tracer, 5)
        assert delivery.entered.wait(20)
        assert processor.close() is False
        assert processor.close() is False
        assert processor.force_flush() is False
    status = processor.status()
    assert (status.accepted, status.dropped, status.queued) == (5, 5, 0)
    [line] = [record.message for record in caplog.records]
    assert line.startswith("5 of 5 spans are not in the fake store: 5 lost")
    assert "exit_timeout_seconds" in line
    delivery.release.set()
    wait_until(lambda: delivery.closed == 1)
    assert processor.status() == status


def test_shutdown_does_not_wait_for_a_destination_that_stays_away() -> None:
    delivery = FakeDelivery(*[Retry("later", 3600.0)] * 100)
    processor = MLflowBatchSpanProcessor(delivery, exit_timeout_seconds=0.05)
    with closing(processor) as tracer:
        end_spans(tracer, 5)
        assert processor.close() is False
    assert processor.status().dropped == 5
    wait_until(lambda: delivery.closed == 1)
    assert delivery.attempts == 1


def test_the_timeout_of_shutdown_can_be_shorter_than_that_of_the_exit() -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(delivery, exit_timeout_seconds=LONG)
    with closing(processor) as tracer:
        end_spans(tracer, 5)
        processor.shutdown(timeout_millis=10)
        assert processor.status().dropped == 5
        delivery.release.set()


def test_what_is_left_at_shutdown_goes_to_the_overflow(caplog: pytest.LogCaptureFixture) -> None:
    delivery, overflow = HangingDelivery(), ListOverflow()
    processor = MLflowBatchSpanProcessor(
        delivery, max_batch_size=2, exit_timeout_seconds=0.05, overflow=overflow
    )
    with closing(processor) as tracer:
        names = end_spans(tracer, 5)
        assert processor.close() is True
        assert overflow.names == names
        assert "5 kept for later" in caplog.text
        assert end_spans(tracer, 1, "after") == overflow.names[5:]
        delivery.release.set()


def test_a_span_that_is_open_at_the_end_is_ended_marked_and_delivered() -> None:
    ended: list[ReadableSpan] = []
    delivery = FakeDelivery(lambda spans: (ended.extend(spans), Sent(len(spans)))[1])
    processor = MLflowBatchSpanProcessor(delivery)
    tracer = tracer_for(processor)
    root = tracer.start_span("root")
    tracer.start_span("child", set_span_in_context(root))
    with tracer.start_as_current_span("done"):
        pass
    processor.shutdown()
    assert sorted(delivery.names) == ["child", "done", "root"]
    marks = {span.name: span.attributes.get("dspy.unfinished") for span in ended}
    assert marks == {"child": True, "root": True, "done": None}
    assert not root.is_recording()


def test_a_shutdown_in_the_middle_of_the_program_can_leave_open_spans_alone() -> None:
    processor = MLflowBatchSpanProcessor(FakeDelivery())
    with closing(processor) as tracer:
        span = tracer.start_span("open")
        assert processor.close(end_open_spans=False) is True
        assert span.is_recording()


def test_spans_that_end_after_shutdown_are_counted_as_lost() -> None:
    processor = MLflowBatchSpanProcessor(FakeDelivery())
    with closing(processor) as tracer:
        processor.shutdown()
        end_spans(tracer, 2)
    assert processor.status().dropped == 2
    assert processor.status().last_error == "it ended after the shutdown of the tracer provider"


def test_a_flush_that_waits_is_woken_by_the_shutdown() -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(delivery, exit_timeout_seconds=0.05)
    answers: list[bool] = []
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        flush = threading.Thread(target=lambda: answers.append(processor.force_flush(60_000)))
        flush.start()
        assert delivery.entered.wait(20)
        processor.shutdown()
        flush.join(20)
        assert answers == [False]
        delivery.release.set()


def test_exit_and_shutdown_share_one_time_limit() -> None:
    delivery = HangingDelivery()
    processor = MLflowBatchSpanProcessor(delivery, exit_timeout_seconds=0.05)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        processor.before_exit()
        assert processor.status().dropped == 1
        delivery.release.set()


def test_spans_may_end_after_the_exit_handler() -> None:
    delivery = FakeDelivery()
    processor = MLflowBatchSpanProcessor(delivery)
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        processor.before_exit()
        assert len(delivery.names) == 1
        end_spans(tracer, 1)
        processor.shutdown()
    assert len(delivery.names) == 2


def test_sending_makes_no_spans_of_its_own() -> None:
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled

    seen: list[bool] = []

    def look(spans: Sequence[ReadableSpan]) -> Outcome:
        seen.append(is_instrumentation_enabled())
        return Sent(len(spans))

    processor = MLflowBatchSpanProcessor(FakeDelivery(look))
    with closing(processor) as tracer:
        end_spans(tracer, 1)
        processor.force_flush(10_000)
    assert seen == [False]


@pytest.mark.parametrize(
    "sizes", [{"max_queue_size": 0}, {"max_batch_size": 0}, {"schedule_delay_seconds": 0}]
)
def test_sizes_must_be_positive(sizes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        MLflowBatchSpanProcessor(FakeDelivery(), **sizes)


def test_a_batch_is_never_larger_than_the_queue() -> None:
    delivery = FakeDelivery()
    processor = MLflowBatchSpanProcessor(delivery, max_queue_size=3, max_batch_size=512)
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        assert processor.force_flush(10_000)
    assert len(delivery.names) == 3


HTTP = "opentelemetry.instrumentation.fastapi"
DSPY = "opentelemetry.instrumentation.dspy"


def test_traces_without_genai_are_filtered_and_counted() -> None:
    delivery = FakeDelivery()
    processor = MLflowBatchSpanProcessor(delivery, traces="genai")
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
    processor = MLflowBatchSpanProcessor(delivery, traces="genai")
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
    processor = MLflowBatchSpanProcessor(
        delivery, traces="genai", max_queue_size=10, max_batch_size=2, block_seconds=LONG
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    http = provider.get_tracer(HTTP)
    with http.start_as_current_span("a long websocket"):
        for index in range(100):
            http.start_span(f"message {index}").end()
    assert processor.force_flush(60_000)
    # Over the bound, so it is sent: nothing that may be wanted is lost.
    assert len(delivery.names) == 101
    assert processor.status().filtered == 0
    assert processor.close()
