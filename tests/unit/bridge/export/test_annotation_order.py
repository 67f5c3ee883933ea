# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Annotations of one trace reach MLflow in the order of the calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.contract import NOT_STORED, Outcome, Rejected, Retry, Sent
from mlflow_bridge._export.delivery import Delivery
from mlflow_bridge._export.waiting_annotations import WaitingAnnotations
from mlflow_bridge._spans.annotation import Annotation, in_order
from mlflow_bridge._spans.annotation_order import annotation_order
from tests.unit.bridge.export.fake_destination import FakeDestination

TRACE = 77


@pytest.fixture(autouse=True)
def nothing_on_its_way() -> Iterator[None]:
    annotation_order.clear()
    yield
    annotation_order.clear()


class Case:
    """A delivery with a clock, and annotations of one trace."""

    def __init__(self, *answers: Outcome) -> None:
        self.destination = FakeDestination()
        self.destination.annotation_answers += answers
        self.delivery = Delivery(
            self.destination, max_attribute_bytes=10_000, max_batch_bytes=1_000_000
        )
        self.now = 0.0
        self.delivery._waiting = WaitingAnnotations(lambda: self.now)

    def tags(self, *values: str) -> list[ReadableSpan]:
        return [in_order(Annotation("tr-1", tag=("key", value)), TRACE) for value in values]

    def attempt(self, *spans: ReadableSpan) -> Outcome:
        found: Sequence[ReadableSpan] = spans
        return self.delivery.attempt(found)

    def write(self) -> None:
        while self.delivery.write_pending_details():
            pass

    @property
    def stored(self) -> list[str]:
        return [found.tag[1] for found in self.destination.annotations if found.tag is not None]


@pytest.mark.parametrize(
    "refusal", [Rejected("bad value"), NOT_STORED, Retry("HTTP 403", lasting=True)]
)
def test_a_refused_annotation_is_not_overtaken(refusal: Outcome) -> None:
    case = Case(refusal)
    first, second, third = case.tags("a", "b", "c")
    assert case.attempt(first, second) == Sent(2)
    assert case.attempt(third) == Sent(1)
    assert case.stored == []
    case.write()
    assert case.stored == []
    case.now = 5.0
    case.write()
    assert case.stored == ["a", "b", "c"]
    assert not annotation_order.has(TRACE)


def test_another_trace_does_not_wait() -> None:
    case = Case(Rejected("bad value"))
    [first] = case.tags("a")
    other = in_order(Annotation("tr-2", tag=("key", "other")), TRACE + 1)
    case.attempt(first, other)
    assert case.stored == ["other"]


def test_an_annotation_waits_for_an_earlier_one_on_the_disk() -> None:
    case = Case()
    first, second = case.tags("a", "b")
    case.attempt(second)
    case.write()
    assert case.stored == []
    case.attempt(first)
    case.write()
    assert case.stored == ["a", "b"]


def test_an_annotation_does_not_wait_for_ever_for_a_lost_one() -> None:
    case = Case()
    _lost, second = case.tags("a", "b")
    case.attempt(second)
    case.now = 30.0
    case.write()
    assert case.stored == ["b"]


def test_the_next_annotation_goes_on_when_one_is_given_up() -> None:
    case = Case(*[Rejected("bad value")] * 3)
    case.attempt(*case.tags("a", "b"))
    for case.now in (5.0, 10.0):
        case.write()
    assert case.stored == ["b"]


def test_at_the_end_no_annotation_waits_for_time() -> None:
    case = Case(Rejected("bad value"))
    case.attempt(*case.tags("a", "b"))
    case.delivery.make_annotations_due()
    case.write()
    assert case.stored == ["a", "b"]


def test_a_burst_behind_a_refused_annotation_is_stored() -> None:
    case = Case(Rejected("bad value"))
    values = [str(number) for number in range(5000)]
    case.attempt(*case.tags(*values))
    case.now = 5.0
    case.write()
    assert case.stored == values
