# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One attempt settles every span that it can, and reports the others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent
from mlflow_bridge._export.delivery import Delivery, ExporterStats
from tests.support.dspy_spans import Recorder, names
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


def test_lone_poison_is_rejected_by_name_when_others_are_taken() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    assert delivery.attempt(Recorder().many(1)) == Sent(1)
    outcome = delivery.attempt(spans_with_poison(1, 0))
    assert outcome == Rejected("unstorable: a value (span 'poison 0')")
    # The span of the first attempt was sent again to tell poison from a broken destination.
    assert destination.stored == ["span 0", "span 0"]
    assert delivery.stats == ExporterStats(1, 1, 0, 0, "unstorable: a value")


def test_lone_poison_with_nothing_to_compare_it_with_is_not_given_up() -> None:
    delivery = delivery_to(FakeDestination())
    spans = spans_with_poison(1, 0)
    for _ in range(20):
        assert delivery.attempt(spans) == Retry("unstorable: a value", lasting=True, refused=True)
    assert (delivery.stats.rejected, delivery.stats.retried) == (0, 20)
    assert delivery.attempt(Recorder().many(1)) == Sent(1)
    assert isinstance(delivery.attempt(spans), Rejected)
    assert delivery.stats.rejected == 1


def test_many_poisoned_spans_before_the_first_good_one_are_found() -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    spans = spans_with_poison(40, *range(30))
    outcomes = [delivery.attempt(spans) for _ in range(40)]
    assert Sent(10, 30, "unstorable: a value") in outcomes
    assert set(destination.stored) == set(names(spans)[30:])


@pytest.mark.parametrize("before", [0, 1])
def test_destination_that_refuses_everything_loses_nothing(before: int) -> None:
    destination = FakeDestination()
    delivery = delivery_to(destination)
    delivery.attempt(Recorder().many(before))
    spans = Recorder().many(64)
    for _ in range(10):
        destination.answers.extend([Rejected("422: failed")] * 100)
        assert delivery.attempt(spans) == Retry("422: failed", lasting=True, refused=True)
        destination.answers.clear()
    assert delivery.stats.rejected == 0
    assert delivery.attempt(spans) == Sent(64)


class Stumbling(FakeDestination):
    """Answers like a server that fails without an explanation over one span."""

    def __init__(self, failure: Retry) -> None:
        super().__init__()
        self._failure = failure

    def send(self, batch: Batch) -> Outcome:
        names = [item.source.name for item in batch.spans]
        if any(name.startswith("poison") for name in names):
            self.attempts.append(len(names))
            return self._failure
        return super().send(batch)


def test_span_that_a_server_stumbles_over_is_found_after_a_few_attempts() -> None:
    busy = Retry("HTTP 500", about_spans=True)
    delivery = delivery_to(Stumbling(busy))
    assert delivery.attempt(Recorder().many(3)) == Sent(3)
    spans = spans_with_poison(512, 100)
    assert delivery.attempt(spans) == busy
    assert delivery.attempt(spans) == busy
    outcome = delivery.attempt(spans)
    assert isinstance(outcome, Sent)
    assert (outcome.spans, outcome.rejected) == (511, 1)


def test_span_that_a_firewall_forbids_is_found_at_once() -> None:
    delivery = delivery_to(Stumbling(Retry("HTTP 403", lasting=True, about_spans=True)))
    assert delivery.attempt(Recorder().many(3)) == Sent(3)
    outcome = delivery.attempt(spans_with_poison(64, 5))
    assert isinstance(outcome, Sent)
    assert (outcome.spans, outcome.rejected) == (63, 1)


def test_outage_costs_one_request_more_at_most() -> None:
    busy = Retry("HTTP 500", about_spans=True)
    destination = FakeDestination()
    delivery = delivery_to(destination)
    delivery.attempt(Recorder().many(3))
    destination.attempts.clear()
    spans = Recorder().many(64)
    for _ in range(5):
        destination.answers.extend([busy] * 10)
        assert delivery.attempt(spans) == busy
        destination.answers.clear()
    assert destination.attempts == [64, 64, *[64, 1] * 3]
    assert delivery.attempt(spans) == Sent(64)


class Small(FakeDestination):
    """Takes requests up to a size."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self.sizes: list[int] = []

    def send(self, batch: Batch) -> Outcome:
        self.sizes.append(sum(item.size for item in batch.spans))
        if self.sizes[-1] > self._limit:
            return Rejected("HTTP 413", too_large=True)
        return super().send(batch)


def test_too_large_a_batch_is_divided_and_later_ones_are_made_smaller() -> None:
    destination = Small(200_000)
    delivery = delivery_to(destination)
    recorder = Recorder()
    spans = [recorder.one("span", {"text": "x" * 9_000}) for _ in range(64)]
    assert delivery.attempt(spans) == Sent(64)
    refused = sum(size > 200_000 for size in destination.sizes)
    assert refused > 0
    destination.sizes.clear()
    assert delivery.attempt(spans) == Sent(64)
    assert max(destination.sizes) <= 200_000


def test_too_large_a_span_is_cut_and_named(caplog: pytest.LogCaptureFixture) -> None:
    destination = Small(5_000)
    delivery = delivery_to(destination)
    span = Recorder().one("huge", {"text": "x" * 9_900})
    assert delivery.attempt([span]) == Sent(1)
    assert "'huge' was too large" in caplog.text
    assert "max_attribute_bytes" in caplog.text


def test_span_that_cannot_be_cut_small_enough_is_named(caplog: pytest.LogCaptureFixture) -> None:
    delivery = delivery_to(Small(500))
    spans = [Recorder().one("small"), Recorder().one("huge", {f"k{i}": "x" for i in range(100)})]
    outcome = delivery.attempt(spans)
    assert isinstance(outcome, Sent)
    assert (outcome.spans, outcome.rejected) == (1, 1)
    assert "'huge'" in caplog.text


def test_warning_of_the_server_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    delivery = delivery_to(FakeDestination([Sent(2, reason="the server warns: slow down")]))
    assert delivery.attempt(Recorder().many(2)) == Sent(2)
    assert "slow down" in caplog.text


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
    assert outcome == Retry("an unexpected failure: OSError gone", about_spans=True)


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
    assert outcome == Rejected("the exporter is shut down", divisible=False, spans_to_blame=False)
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
