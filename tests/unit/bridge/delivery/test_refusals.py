# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A destination that refuses everything for a while loses no span, with or without a probe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Outcome
from mlflow_bridge._export.delivery import Delivery
from tests.support.fake_delivery import FAST, PATIENCE, DeliveryProcessor, closing, wait_until
from tests.support.spool_spans import files_in, spans_named
from tests.unit.bridge.export.fake_destination import FakeDestination

POISON = "poison"
"""A destination refuses spans whose names begin with this."""


class Real:
    """The real delivery, as the exporter has it, to a destination that refuses poison."""

    destination_description = "the fake store"

    def __init__(self) -> None:
        self.destination = FakeDestination()
        self.delivery = Delivery(self.destination, max_attribute_bytes=1000, max_batch_bytes=10**9)
        self.attempts = 0

    @property
    def stored(self) -> set[str]:
        return set(self.destination.stored)

    def warm_up(self) -> None: ...

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        self.attempts += 1
        return self.delivery.attempt(spans)

    def close(self) -> None: ...


def processor_for(real: Real, spool: Spool | None, **options: Any) -> DeliveryProcessor:
    settings: dict[str, Any] = {
        "schedule_delay_seconds": 0.001,
        "backoff": FAST,
        "exit_timeout_seconds": 0.5,
    }
    return DeliveryProcessor(real, spool=spool, **(settings | options))


def test_a_refused_span_stays_in_the_spool_until_another_is_taken(tmp_path: Path) -> None:
    real = Real()
    processor = processor_for(real, Spool(tmp_path))
    with closing(processor) as tracer:
        tracer.start_span(POISON).end()
        wait_until(lambda: real.attempts > 10)
        status = processor.status()
        assert (status.kept, status.rejected, status.spool_dropped) == (1, 0, 0)
        tracer.start_span("good").end()
        wait_until(lambda: processor.status().spool_dropped == 1)
        wait_until(lambda: not files_in(tmp_path))
    assert real.stored == {"good"}


def test_a_refused_span_is_left_to_the_next_process(tmp_path: Path) -> None:
    processor = processor_for(Real(), Spool(tmp_path))
    with closing(processor) as tracer:
        tracer.start_span(POISON).end()
        processor.close()
        assert (processor.status().kept, processor.status().rejected) == (1, 0)
    assert len(files_in(tmp_path)) == 1
    real = Real()
    processor = processor_for(real, Spool(tmp_path))
    with closing(processor) as tracer:
        tracer.start_span("good").end()
        wait_until(lambda: not files_in(tmp_path))
        assert processor.status().spool_dropped == 1
    assert real.stored == {"good"}


def test_a_file_of_refused_spans_holds_up_no_other_file(tmp_path: Path) -> None:
    for name in (POISON, "good"):
        dead = Spool(tmp_path)
        assert dead.accept(spans_named(name))
        dead.close()
    real = Real()
    processor = processor_for(real, Spool(tmp_path))
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: not files_in(tmp_path))
        status = processor.status()
    assert (status.redelivered, status.spool_dropped) == (1, 1)


def test_spans_that_are_refused_for_a_while_are_delivered_later(tmp_path: Path) -> None:
    real = Real()
    real.destination.refuses_all = True
    processor = processor_for(real, Spool(tmp_path), max_batch_size=16)
    with closing(processor) as tracer:
        for n in range(100):
            tracer.start_span(f"span {n}").end()
        wait_until(lambda: real.attempts > 20)
        status = processor.status()
        assert (status.rejected, status.dropped, status.spool_dropped) == (0, 0, 0)
        real.destination.refuses_all = False
        wait_until(lambda: len(real.stored) == 100)
        wait_until(lambda: processor.status().missing == 0)


def test_without_a_spool_a_refused_span_holds_up_no_other() -> None:
    real = Real()
    processor = processor_for(real, None, max_batch_size=1)
    with closing(processor) as tracer:
        tracer.start_span(POISON).end()
        wait_until(lambda: real.attempts > 10)
        assert (processor.status().queued, processor.status().rejected) == (1, 0)
        tracer.start_span("good").end()
        assert not processor.force_flush(PATIENCE * 1000)
        status = processor.status()
    assert (status.stored, status.rejected, real.stored) == (1, 1, {"good"})


def test_poison_alone_in_the_spool_ages_out(tmp_path: Path) -> None:
    dead = Spool(tmp_path)
    assert dead.accept(spans_named(POISON))
    dead.close()
    real = Real()
    processor = processor_for(real, Spool(tmp_path, max_age_seconds=3600.0))
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: real.attempts > 2)
        assert processor.status().spool_dropped == 0
        for file in files_in(tmp_path):
            os.utime(file, (0, 0))
        wait_until(lambda: not files_in(tmp_path))
        assert processor.status().spool_dropped == 1
