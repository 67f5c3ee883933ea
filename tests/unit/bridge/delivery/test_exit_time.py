# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The division of the exit time between the destination and the disk."""

from __future__ import annotations

import pytest

from mlflow_bridge._delivery.shutdown import ExitTime


@pytest.mark.parametrize("queued", [0, 1, 5_000, 40_000, 120_000, 10_000_000])
def test_both_shares_add_up_to_the_allowed_time(queued: int) -> None:
    time = ExitTime.within(5.0, None, queued=queued)
    assert time.delivery_seconds + time.spooling_seconds == pytest.approx(5.0)
    assert time.delivery_seconds >= 1.25


def test_the_share_of_the_disk_grows_with_the_queue() -> None:
    shares = [
        ExitTime.within(5.0, None, queued=queued).spooling_seconds
        for queued in (0, 10_000, 20_000, 60_000, 120_000)
    ]
    assert shares == sorted(set(shares))
    assert shares[0] == pytest.approx(0.5)
    # Both queues are full: the disk gets most of the time, since MLflow could not take these spans
    # in it.
    assert shares[-1] == pytest.approx(3.75)


def test_a_shutdown_without_time_still_has_some_for_the_disk() -> None:
    time = ExitTime.within(5.0, 0.0, queued=100)
    assert (time.delivery_seconds, time.spooling_seconds) == (0.0, 0.25)
