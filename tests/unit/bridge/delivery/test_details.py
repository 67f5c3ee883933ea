# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of traces is written while no span waits, and annotations go behind their trace."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Outcome, Retry, Sent
from mlflow_bridge._spans.annotation import Annotation, annotate, is_annotation, traces_in_flight
from mlflow_bridge._spans.otlp_json.decoder import spans_in
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    closing,
    end_spans,
    wait_until,
)
from tests.support.spool_spans import files_in, names_on_disk


class Details:
    """Metadata that waits, one for each span that was stored."""

    def __init__(self) -> None:
        self.pending = 0
        self.events: list[str] = []
        self.refuses = False

    @property
    def has_pending_details(self) -> bool:
        return self.pending > 0

    @property
    def has_waiting_annotations(self) -> bool:
        return False

    def make_annotations_due(self) -> int:
        return 0

    def take_waiting_annotations(self) -> list[ReadableSpan]:
        return []

    def write_pending_details(self) -> bool:
        self.events.append("refused" if self.refuses else "details")
        if not self.refuses:
            self.pending -= 1
        return not self.refuses


class DescribingDelivery(FakeDelivery):
    """A destination with metadata to write, which may hang before it takes spans."""

    def __init__(self) -> None:
        super().__init__()
        self._delivery_of_details = Details()
        self.may_answer = threading.Event()
        self.may_answer.set()

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        self.may_answer.wait(PATIENCE)
        self._delivery_of_details.events += [span.name for span in spans]
        self._delivery_of_details.pending += len(spans)
        return super().deliver(spans)


def test_metadata_waits_until_no_span_waits() -> None:
    delivery = DescribingDelivery()
    details = delivery._delivery_of_details
    processor = DeliveryProcessor(delivery, max_batch_size=1, schedule_delay_seconds=0.01)
    with closing(processor) as tracer:
        delivery.may_answer.clear()
        names = end_spans(tracer, 5)
        wait_until(lambda: processor._sender.waiting() != [])
        wait_until(lambda: len(processor._sender.waiting()) == 5)
        delivery.may_answer.set()
        wait_until(lambda: details.events == [*names, *["details"] * 5])


def test_metadata_is_written_at_the_end() -> None:
    delivery = DescribingDelivery()
    processor = DeliveryProcessor(delivery, schedule_delay_seconds=3600)
    with closing(processor) as tracer:
        end_spans(tracer, 3)
        assert processor.close()
    assert delivery._delivery_of_details.events[3:] == ["details"] * 3


def test_metadata_that_has_to_wait_does_not_hold_up_spans() -> None:
    delivery = DescribingDelivery()
    details = delivery._delivery_of_details
    details.refuses = True
    processor = DeliveryProcessor(delivery, max_batch_size=1, schedule_delay_seconds=0.01)
    with closing(processor) as tracer:
        first = end_spans(tracer, 1)
        wait_until(lambda: "refused" in details.events)
        second = end_spans(tracer, 2, "later")
        assert processor.force_flush(PATIENCE * 1000)
        assert delivery.names == [*first, *second]
        assert processor.close()


def test_an_annotation_goes_behind_its_trace() -> None:
    delivery = FakeDelivery()
    with closing(DeliveryProcessor(delivery, backoff=FAST)) as tracer:
        with tracer.start_as_current_span("root") as root:
            trace_id = root.get_span_context().trace_id
            annotate(Annotation("tr-1", tag=("a", "b")), trace_id)
        # It does not wait for the root: what has it delivered earlier decides on that.
        annotate(Annotation("tr-1", tag=("c", "d")), trace_id)
    assert delivery.names == ["annotation", "root", "annotation"]


def test_an_annotation_of_a_spilled_trace_is_spilled_behind_it(tmp_path: Path) -> None:
    delivery = FakeDelivery()
    delivery.deliver = lambda _: Retry("down", lasting=True)  # type: ignore[method-assign]
    processor = DeliveryProcessor(
        delivery, spool=Spool(tmp_path), backoff=FAST, exit_timeout_seconds=0.1
    )
    with closing(processor) as tracer:
        with tracer.start_as_current_span("root") as root:
            trace_id = root.get_span_context().trace_id
        wait_until(lambda: names_on_disk(tmp_path) == {"root"})
        annotate(Annotation("tr-1", tag=("a", "b")), trace_id)
        # At once; or by the sender, if it is just trying to deliver the root from the disk.
        wait_until(lambda: names_on_disk(tmp_path) == {"root", "annotation"})
    # Files are delivered in the order of their names.
    found = [
        span for file in files_in(tmp_path) for line in file.open("rb") for span in spans_in(line)
    ]
    assert [span.name for span in found] == ["root", "annotation"]
    assert is_annotation(found[1])


def test_an_annotation_after_the_shutdown_is_kept(tmp_path: Path) -> None:
    processor = DeliveryProcessor(FakeDelivery(), spool=Spool(tmp_path))
    with closing(processor) as tracer:
        [name] = end_spans(tracer, 1)
        assert processor.close()
        annotate(Annotation("tr-1", tag=("a", "b")), 1)
    assert name
    assert names_on_disk(tmp_path) == {"annotation"}


def test_only_the_processor_with_the_trace_gets_an_annotation() -> None:
    one, other = FakeDelivery(), FakeDelivery()
    with (
        closing(DeliveryProcessor(one, traces="genai")) as tracer,
        closing(DeliveryProcessor(other, traces="genai")),
        tracer.start_as_current_span("root", attributes={"gen_ai.operation.name": "chat"}) as root,
    ):
        trace_id = root.get_span_context().trace_id
        annotate(Annotation("tr-1", tag=("a", "b")), trace_id)
    assert (one.names, other.names) == (["annotation", "root"], [])


def test_the_number_of_traces_in_flight_is_bounded() -> None:
    for number in range(20_000):
        traces_in_flight.begun(number)
    assert (0 in traces_in_flight, 19_999 in traces_in_flight) == (False, True)
    traces_in_flight.stored(19_999)
    assert 19_999 not in traces_in_flight
    traces_in_flight.clear()


def test_an_outcome_for_spans_and_annotations_counts_both() -> None:
    delivery = FakeDelivery(Sent(2))
    processor = DeliveryProcessor(delivery)
    with closing(processor) as tracer:
        with tracer.start_as_current_span("root") as root:
            pass
        annotate(Annotation("tr-1", tag=("a", "b")), root.get_span_context().trace_id)
        assert processor.force_flush(PATIENCE * 1000)
        assert processor.status().stored == 2
