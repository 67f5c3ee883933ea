# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A failure that stays until somebody does something: nothing waits for it, nothing is lost."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Retry
from tests.unit.bridge.delivery.fakes import (
    FAST,
    DeliveryProcessor,
    FakeDelivery,
    closing,
    wait_until,
)

WRONG_PASSWORD = Retry("the tracking server refused the credentials: HTTP 401", lasting=True)


def test_it_is_said_at_once_and_the_spans_go_to_the_spool(
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


def test_the_exit_does_not_wait_for_it(tmp_path: Path) -> None:
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
