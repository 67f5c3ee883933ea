# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The division of the exit time between the destination and the disk."""

from __future__ import annotations

import pytest

from mlflow_bridge._delivery.shutdown import ExitTime


@pytest.mark.parametrize("allowed", [0.5, 5.0, 60.0])
def test_the_destination_has_most_of_the_allowed_time(allowed: float) -> None:
    time = ExitTime.within(allowed, None)
    assert time.delivery_seconds == pytest.approx(0.9 * allowed)
    assert time.alone_seconds == pytest.approx(min(0.09 * allowed, 1.0))


def test_a_disk_that_takes_spans_has_as_long_again() -> None:
    time = ExitTime.within(5.0, None)
    assert time.delivery_seconds + time.spooling_seconds == pytest.approx(10.0)


def test_a_caller_may_ask_for_less() -> None:
    time = ExitTime.within(5.0, 1.0)
    assert time.delivery_seconds + time.spooling_seconds == pytest.approx(2.0)


def test_a_shutdown_without_time_still_has_some_for_the_disk() -> None:
    time = ExitTime.within(5.0, 0.0)
    assert (time.delivery_seconds, time.alone_seconds) == (0.0, 0.0)
    assert time.spooling_seconds == 0.25
