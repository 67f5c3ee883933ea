# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A failure that lasts until the operator acts: no flush waits for it, and no span is lost."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Retry
from tests.support.fake_delivery import (
    FAST,
    DeliveryProcessor,
    FakeDelivery,
    closing,
    wait_until,
)

WRONG_PASSWORD = Retry("the tracking server refused the credentials: HTTP 401", lasting=True)


def test_a_lasting_failure_is_logged_at_once_and_its_spans_are_spilled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = FakeDelivery(WRONG_PASSWORD)
    processor = DeliveryProcessor(
        delivery, backoff=FAST, spool=Spool(tmp_path), spill_after_seconds=3600
    )
    with closing(processor) as tracer:
        for _ in range(5):
            tracer.start_span("span").end()
        wait_until(lambda: processor.status().recovered == 5)
        status = processor.status()
    assert delivery.names == ["span"] * 5
    assert (status.spilled, status.dropped, status.rejected) == (5, 0, 0)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "refused the credentials" in warnings[0]
    assert str(tmp_path) in warnings[0]


def test_the_exit_does_not_wait_for_a_lasting_failure(tmp_path: Path) -> None:
    delivery = FakeDelivery(*[WRONG_PASSWORD] * 10_000)
    processor = DeliveryProcessor(delivery, exit_timeout_seconds=3600, spool=Spool(tmp_path))
    began = time.monotonic()
    with closing(processor) as tracer:
        for _ in range(5):
            tracer.start_span("span").end()
        processor.shutdown()
        status = processor.status()
    assert time.monotonic() - began < 600
    assert (status.kept, status.dropped, status.rejected) == (5, 0, 0)
