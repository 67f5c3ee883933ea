# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The processor with a spool: when spans are spilled, and how they are delivered later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Tracer, set_span_in_context

from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Backoff, Outcome, Rejected, Retry, Sent
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    closing,
    wait_until,
)
from tests.support.spool_spans import files_in, spans_named

DOWN = Retry("connection refused")


class SwitchedDelivery(FakeDelivery):
    """A destination that is unavailable for as long as it is ``down``."""

    def __init__(self) -> None:
        super().__init__()
        self.down = True

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        return DOWN if self.down else super().deliver(spans)


def processor_for(
    delivery: FakeDelivery, path: Path, *, write_ahead: bool = False, **options: Any
) -> DeliveryProcessor:
    settings: dict[str, Any] = {
        "schedule_delay_seconds": 0.005,
        "backoff": FAST,
        "exit_timeout_seconds": 1.0,
    }
    spool = Spool(path, write_ahead=write_ahead)
    return DeliveryProcessor(delivery, spool=spool, **(settings | options))


def end(tracer: Tracer, *names: str) -> None:
    for name in names:
        tracer.start_span(name).end()


def left_by_a_dead_process(path: Path, *names: str) -> None:
    spool = Spool(path)
    for span in spans_named(*names):
        spool.accept((span,))
    spool.close()


def numbered(count: int) -> list[str]:
    return [f"span {n}" for n in range(count)]


@pytest.mark.parametrize("write_ahead", [False, True])
def test_a_full_queue_spills_and_all_of_it_is_delivered(tmp_path: Path, write_ahead: bool) -> None:
    delivery = HangingDelivery()
    processor = processor_for(delivery, tmp_path, max_queue_size=10, write_ahead=write_ahead)
    with closing(processor) as tracer:
        end(tracer, *numbered(10))
        delivery.entered.wait(PATIENCE)
        end(tracer, *(f"late {n}" for n in range(20)))
        wait_until(lambda: processor.status().spilled == 20)
        assert processor.status().spool_bytes > 0
        delivery.release.set()
        wait_until(lambda: processor.status().recovered == 20)
        assert processor.force_flush()
        live = [name for name in delivery.names if name.startswith("span")]
        late = [name for name in delivery.names if name.startswith("late")]
        assert (live, late) == (numbered(10), [f"late {n}" for n in range(20)])
        assert len(delivery.names) == 30
        status = processor.status()
        assert (status.stored, status.kept, status.missing, status.dropped) == (10, 0, 0, 0)
        assert status.accepted == 30
        wait_until(lambda: processor.status().spool_bytes == 0)
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("write_ahead", [False, True])
def test_an_outage_is_spilled_and_delivered_when_it_is_over(
    tmp_path: Path, write_ahead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = SwitchedDelivery()
    processor = processor_for(
        delivery, tmp_path, spill_after_seconds=0.02, write_ahead=write_ahead, max_batch_size=7
    )
    with caplog.at_level(logging.WARNING), closing(processor) as tracer:
        end(tracer, *numbered(50))
        # These spans are not stored, but on disk.
        assert processor.force_flush(PATIENCE * 1000)
        assert (processor.status().spilled, processor.status().queued) == (50, 0)
        assert delivery.names == []
        end(tracer, "during")
        delivery.down = False
        end(tracer, "after")
        wait_until(lambda: len(delivery.names) == 52)
        assert sorted(delivery.names) == sorted([*numbered(50), "during", "after"])
        wait_until(lambda: processor.status().missing == 0)
        wait_until(lambda: processor.status().spool_bytes == 0)
    assert files_in(tmp_path) == []
    assert f"are kept in {tmp_path}" in caplog.text


@pytest.mark.parametrize("write_ahead", [False, True])
def test_spans_left_at_shutdown_are_delivered_by_the_next_process(
    tmp_path: Path, write_ahead: bool, caplog: pytest.LogCaptureFixture
) -> None:
    down = SwitchedDelivery()
    processor = processor_for(down, tmp_path, write_ahead=write_ahead, exit_timeout_seconds=0.2)
    with caplog.at_level(logging.WARNING), closing(processor) as tracer:
        end(tracer, *numbered(300))
        assert processor.close()
        assert processor.force_flush()
    status = processor.status()
    assert (status.spilled, status.kept, status.missing, status.dropped) == (300, 300, 300, 0)
    assert (
        f"300 of 300 spans are not in the fake store: 0 lost, 0 refused, 300 kept in {tmp_path}, "
        "delivered by the next process" in caplog.text
    )
    delivery = FakeDelivery()
    after = processor_for(delivery, tmp_path)
    with closing(after):
        after.warm_up()
        wait_until(lambda: after.status().redelivered == 300)
        wait_until(lambda: after.status().spool_bytes == 0)
        assert delivery.names == numbered(300)
        assert (after.status().accepted, after.status().missing) == (0, 0)


def test_a_long_line_is_delivered_in_batches(tmp_path: Path) -> None:
    left = Spool(tmp_path)
    assert left.take(spans_named(*numbered(50))) == 50
    left.close()
    delivery = FakeDelivery()
    processor = processor_for(delivery, tmp_path, max_batch_size=20)
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: processor.status().spool_bytes == 0)
    assert delivery.names == numbered(50)
    assert [len(batch) for batch in delivery.batches] == [20, 20, 10]


@pytest.mark.parametrize("write_ahead", [False, True])
def test_many_threads(tmp_path: Path, write_ahead: bool) -> None:
    delivery = FakeDelivery(*[DOWN, Sent(16)] * 5, seconds=0.002)
    processor = processor_for(
        delivery, tmp_path, max_queue_size=64, max_batch_size=16, write_ahead=write_ahead
    )
    with closing(processor) as tracer:
        threads = [
            threading.Thread(target=end, args=(tracer, *(f"{n} {name}" for name in numbered(200))))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Not for `missing` to be 0: it also is 0 before the first span is spilled.
        wait_until(lambda: (now := processor.status()).stored + now.recovered == 1600)
        assert processor.force_flush()
        status = processor.status()
        assert status.spilled > 0
        wait_until(lambda: processor.status().spool_bytes == 0)
    assert len(delivery.names) == len(set(delivery.names)) == 1600
    assert files_in(tmp_path) == []


def test_close_delivers_what_this_process_spilled(tmp_path: Path) -> None:
    delivery = HangingDelivery()
    processor = processor_for(
        delivery, tmp_path, max_queue_size=5, exit_timeout_seconds=PATIENCE, max_batch_size=5
    )
    with closing(processor) as tracer:
        end(tracer, *numbered(5))
        delivery.entered.wait(PATIENCE)
        end(tracer, "spilled")
        delivery.release.set()
        assert processor.close()
    assert delivery.names == [*numbered(5), "spilled"]
    assert processor.status().missing == 0


def test_a_span_after_shutdown_goes_to_the_spool(tmp_path: Path) -> None:
    processor = processor_for(FakeDelivery(), tmp_path)
    with closing(processor) as tracer:
        processor.close()
        end(tracer, "late")
        assert processor.status().kept == 1
    processor.shutdown()
    assert len(files_in(tmp_path)) == 1


def test_unusable_spool_leaves_the_program_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    delivery = SwitchedDelivery()
    processor = processor_for(
        delivery, tmp_path / "file", spill_after_seconds=0.0, exit_timeout_seconds=0.1
    )
    with caplog.at_level(logging.WARNING), closing(processor) as tracer:
        end(tracer, *numbered(10))
        assert not processor.force_flush(50)
        delivery.down = False
        assert processor.force_flush()
        assert delivery.names == numbered(10)
        delivery.down = True
        end(tracer, "lost")
        assert not processor.close()
    assert (processor.status().dropped, processor.status().spilled) == (1, 0)
    assert caplog.text.count("cannot keep spans") == 1


def test_torn_and_foreign_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, "a", "b", "c")
    (file,) = files_in(tmp_path)
    first, second, third = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(first + b"{}\n" + second + third[:-20])
    delivery = FakeDelivery()
    processor = processor_for(delivery, tmp_path)
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: not files_in(tmp_path))
        assert delivery.names == ["a", "b"]
        assert (processor.status().redelivered, processor.status().spool_dropped) == (2, 2)


def test_a_torn_line_counts_the_spans_that_can_be_seen_in_it(tmp_path: Path) -> None:
    dead = Spool(tmp_path)
    assert dead.accept(spans_named("a", "b", "c"))
    dead.close()
    (file,) = files_in(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with closing(processor := processor_for(FakeDelivery(), tmp_path)):
        processor.warm_up()
        wait_until(lambda: not files_in(tmp_path))
        assert processor.status().spool_dropped == 3


@pytest.mark.parametrize("write_ahead", [False, True])
def test_a_span_with_an_odd_name_costs_no_other_in_an_outage(
    tmp_path: Path, write_ahead: bool
) -> None:
    delivery = SwitchedDelivery()
    processor = processor_for(delivery, tmp_path, spill_after_seconds=0.0, write_ahead=write_ahead)
    name: Any = Path("odd")
    with closing(processor) as tracer:
        end(tracer, *numbered(4))
        tracer.start_span(name, start_time=int(1e18)).end()
        end(tracer, "later")
        wait_until(lambda: processor.status().kept == 6)
        delivery.down = False
        wait_until(lambda: processor.status().recovered == 6)
    assert delivery.names == [*numbered(4), "odd", "later"]


def test_a_redelivery_that_is_interrupted_begins_again(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, *numbered(10))
    delivery = FakeDelivery(Sent(4), *[DOWN] * 10_000)
    processor = processor_for(delivery, tmp_path, max_batch_size=4)
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: processor.status().redelivered == 4)
    assert len(files_in(tmp_path)) == 1
    after = FakeDelivery()
    with closing(processor := processor_for(after, tmp_path)):
        processor.warm_up()
        wait_until(lambda: not files_in(tmp_path))
    assert after.names == numbered(10)


def test_a_redelivery_that_is_refused_is_counted_and_the_rest_delivered(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, *numbered(4))
    delivery = FakeDelivery(Rejected("poison"), DOWN, Sent(1, 1, "poison"))
    processor = processor_for(delivery, tmp_path, max_batch_size=2)
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: not files_in(tmp_path))
        status = processor.status()
    assert (status.redelivered, status.spool_dropped) == (1, 3)


def test_an_exporter_that_takes_nothing_loses_no_span_of_the_spool(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, "a")
    delivery = FakeDelivery(*[Rejected("bad settings", spans_to_blame=False)] * 10_000)
    processor = processor_for(delivery, tmp_path, backoff=Backoff(longest=PATIENCE * 10))
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: delivery.attempts > 0)
        # Another process may have better settings.
        after = FakeDelivery()
        with closing(other := processor_for(after, tmp_path)):
            other.warm_up()
            wait_until(lambda: after.names == ["a"])
    assert files_in(tmp_path) == []
    assert processor.status().spool_dropped == 0


def test_an_exporter_that_raises_does_not_stop_the_redelivery(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path, *numbered(4))
    delivery = FakeDelivery(*[SystemExit("in a driver")] * 3)
    processor = processor_for(delivery, tmp_path, max_batch_size=2)
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: not files_in(tmp_path))
    assert delivery.names == numbered(4)[2:]
    assert processor.status().spool_dropped == 2


def test_live_spans_do_not_wait_for_the_spool_and_delay_it_for_a_bounded_time(
    tmp_path: Path,
) -> None:
    left_by_a_dead_process(tmp_path, *numbered(200))
    delivery = FakeDelivery(seconds=0.001)
    processor = processor_for(delivery, tmp_path, max_batch_size=1)
    with closing(processor) as tracer:
        until = time.monotonic() + PATIENCE
        live = 0
        while len(files_in(tmp_path)) and time.monotonic() < until:
            end(tracer, f"live {live}")
            live += 1
            assert processor.force_flush()
        assert processor.status().redelivered == 200
        assert processor.status().stored == live
        first = next(n for n, name in enumerate(delivery.names) if name.startswith("live"))
        assert first < 10


def test_a_program_that_is_never_idle_delivers_the_spans_of_dead_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_bridge._delivery.spool.redelivery._SCAN_SECONDS", 0.1)
    delivery = FakeDelivery(seconds=0.002)
    processor = processor_for(delivery, tmp_path, max_batch_size=1, exit_timeout_seconds=60.0)
    with closing(processor) as tracer:
        # At least two seconds of work, in which the queue is never empty.
        end(tracer, *(f"live {n}" for n in range(1000)))
        wait_until(lambda: delivery.attempts > 0)
        left_by_a_dead_process(tmp_path, "old")
        assert processor.force_flush(60_000)
    assert delivery.names.index("old") < 900


@pytest.mark.parametrize("write_ahead", [False, True])
def test_settled_spans_leave_no_file_behind(tmp_path: Path, write_ahead: bool) -> None:
    delivery = FakeDelivery(DOWN, Rejected("poison"))
    # Nothing is due before it is full, so that the refused batch is one of four.
    processor = processor_for(
        delivery,
        tmp_path,
        write_ahead=write_ahead,
        max_batch_size=4,
        schedule_delay_seconds=PATIENCE,
    )
    with closing(processor) as tracer:
        end(tracer, *numbered(20))
        processor.force_flush()
        status = processor.status()
        assert (status.stored, status.rejected, status.spool_bytes) == (16, 4, 0)
    assert files_in(tmp_path) == []


def test_write_ahead_forgets_the_spans_of_filtered_traces(tmp_path: Path) -> None:
    delivery = FakeDelivery()
    processor = processor_for(delivery, tmp_path, write_ahead=True, traces="genai")
    with closing(processor) as tracer:
        root = tracer.start_span("GET /health")
        tracer.start_span("query", set_span_in_context(root)).end()
        # The held spans are on disk as well.
        assert processor.status().spool_bytes > 0
        root.end()
        assert processor.force_flush(60_000)
        status = processor.status()
        assert (status.filtered, status.spool_bytes, delivery.names) == (2, 0, [])
