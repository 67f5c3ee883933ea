# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One attempt settles every span that it can, and says honestly what it could not."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge.export.delivery import Delivery, ExporterStats
from mlflow_bridge.export.outcomes import Outcome, Rejected, Retry, Sent
from tests.unit.bridge.export.dspy_spans import Recorder, names
from tests.unit.bridge.export.fake_destination import FakeDestination


def delivery_to(destination: FakeDestination, max_batch_bytes: int = 10**9) -> Delivery:
    return Delivery(destination, max_attribute_bytes=10_000, max_batch_bytes=max_batch_bytes)


def spans_with_poison(count: int, *poison: int) -> Sequence[ReadableSpan]:
    return Recorder().many(
        count, lambda index: f"poison {index}" if index in poison else f"span {index}"
    )


def test_all_is_well() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    spans = Recorder().many(512)
    assert delivery.attempt(spans) == Sent(512)
    assert destination.stored == names(spans)
    assert destination.attempts == [512]
    assert delivery.stats == ExporterStats(sent=512)


def test_nothing_to_send() -> None:
    destination = FakeDestination()
    assert delivery_to(destination).attempt([]) == Sent(0)
    assert destination.attempts == []


def test_one_poison_in_512_stands_alone(caplog: pytest.LogCaptureFixture) -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    spans = spans_with_poison(512, 317)
    with caplog.at_level(logging.WARNING, "mlflow_bridge"):
        outcome = delivery.attempt(spans)
    assert isinstance(outcome, Sent)
    assert (outcome.spans, outcome.rejected) == (511, 1)
    assert destination.stored == [name for name in names(spans) if name != "poison 317"]
    assert len(destination.attempts) == 1 + 2 * 9
    assert delivery.stats == ExporterStats(sent=511, rejected=1, last_error="unstorable: a value")
    assert [record.getMessage() for record in caplog.records] == [
        "MLflow did not take span 'poison 317': unstorable: a value"
    ]


@pytest.mark.parametrize("poison", [(0,), (511,), (0, 511), (3, 4, 5), tuple(range(0, 512, 50))])
def test_every_poison_is_found(poison: tuple[int, ...]) -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    outcome = delivery.attempt(spans_with_poison(512, *poison))
    assert isinstance(outcome, Sent)
    assert outcome.spans == len(destination.stored) == 512 - len(poison)
    assert delivery.stats.rejected == len(poison)


def test_one_kind_of_rejection_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    delivery = delivery_to(FakeDestination())
    for _ in range(5):
        delivery.attempt(spans_with_poison(8, 1, 2, 3))
    assert len(caplog.records) == 1
    assert delivery.stats.rejected == 15


def test_only_poison_is_rejected_by_name() -> None:
    outcome = delivery_to(FakeDestination()).attempt(spans_with_poison(1, 0))
    assert outcome == Rejected("unstorable: a value (span 'poison 0')")


def test_what_lies_in_the_request_is_not_divided() -> None:
    destination = FakeDestination(rejection=Rejected("wrong password", divisible=False))
    outcome = delivery_to(destination).attempt(spans_with_poison(512, 1))
    assert outcome == Rejected("wrong password (512 spans)", divisible=False)
    assert destination.attempts == [512]


def test_retry_is_passed_on() -> None:
    destination = FakeDestination([Retry("busy", after=3.0)])
    delivery = delivery_to(destination)
    spans = Recorder().many(10)
    assert delivery.attempt(spans) == Retry("busy", after=3.0)
    assert delivery.stats == ExporterStats(retried=1, last_error="busy")
    assert delivery.attempt(spans) == Sent(10)


def test_what_is_settled_before_a_retry_is_not_sent_again() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    spans = spans_with_poison(8, 0)
    # 8, 4, 2, 1 (poison), 1, 2, then the last 4 meet an outage.
    destination.answers.extend(
        [Rejected("x")] * 4 + [Sent(1), Sent(2), Retry("busy"), Retry("busy")]
    )
    assert delivery.attempt(spans) == Retry("busy")
    assert delivery.attempt(spans) == Retry("busy")
    outcome = delivery.attempt(spans)
    assert isinstance(outcome, Sent)
    assert (outcome.spans, outcome.rejected) == (7, 1)
    assert destination.stored == names(spans)[1:]
    assert delivery.stats.sent == 7
    assert delivery.stats.rejected == 1


def test_progress_is_forgotten_with_the_batch() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    spans = Recorder().many(2)
    delivery.attempt(spans)
    assert delivery.attempt(spans) == Sent(2)
    assert destination.stored == names(spans) * 2


def test_partial_success() -> None:
    delivery = delivery_to(FakeDestination([Sent(7, rejected=3, reason="left out: full")]))
    outcome = delivery.attempt(Recorder().many(10))
    assert outcome == Sent(7, rejected=3, reason="left out: full")
    assert delivery.stats == ExporterStats(sent=7, rejected=3, last_error="left out: full")


def test_batches_are_bounded_in_size() -> None:
    destination = FakeDestination()
    recorder = Recorder()
    spans = [recorder.one("span", {"text": "x" * 5_000}) for _ in range(6)]
    assert delivery_to(destination, max_batch_bytes=12_000).attempt(spans) == Sent(6)
    assert destination.attempts == [2, 2, 2]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyError("bad"), TypeError("bad")])
def test_mistake_over_a_value_is_narrowed_down(error: Exception) -> None:
    destination = FakeDestination([error, error])
    outcome = delivery_to(destination).attempt(Recorder().many(4))
    assert outcome == Sent(4)
    assert destination.attempts == [4, 2, 1, 1, 2]


def test_other_exception_is_tried_again() -> None:
    outcome = delivery_to(FakeDestination([OSError("gone")])).attempt(Recorder().many(4))
    assert outcome == Retry("an unexpected failure: OSError gone")


def test_span_that_cannot_be_mapped_is_left_out() -> None:
    broken = ReadableSpan(name="broken")
    destination = FakeDestination()
    spans = [*Recorder().many(2), broken]
    outcome = delivery_to(destination).attempt(spans)
    assert isinstance(outcome, Sent)
    assert (outcome.spans, outcome.rejected) == (2, 1)
    assert destination.stored == names(spans[:2])


def test_delivery_makes_no_spans_of_its_own() -> None:
    seen: list[bool] = []

    def look() -> Outcome:
        seen.append(is_instrumentation_enabled())
        return Sent(1)

    delivery_to(FakeDestination([look])).attempt(Recorder().many(1))
    assert seen == [False]


def test_closed_delivery_refuses_and_counts() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    assert delivery.close(1)
    outcome = delivery.attempt(Recorder().many(3))
    assert outcome == Rejected("the exporter is shut down", divisible=False)
    assert destination.attempts == []
    assert destination.closed == 1
    assert delivery.stats.rejected == 3


def test_close_does_not_wait_for_a_destination_that_hangs() -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang() -> Outcome:
        hanging.set()
        assert release.wait(10)
        return Rejected("x")

    destination = FakeDestination([hang])
    delivery = delivery_to(destination)
    outcomes: list[Outcome] = []
    spans = Recorder().many(2)
    thread = threading.Thread(target=lambda: outcomes.append(delivery.attempt(spans)))
    thread.start()
    try:
        assert hanging.wait(10)
        assert delivery.stats == ExporterStats()
        assert not delivery.close(0.01)
    finally:
        release.set()
        thread.join()
    # The halves are not tried any more.
    assert outcomes == [Retry("the exporter is being shut down")]
    assert destination.attempts == [2]
    assert delivery.close(1)
    assert destination.closed == 1
