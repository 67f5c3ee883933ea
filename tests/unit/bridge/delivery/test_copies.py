# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Spans that wait for MLflow for too long have a copy on disk, and the log says so."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._delivery.copies import Copying
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Backoff, Outcome, Retry
from mlflow_bridge._spans.otlp_json import encoder
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    closing,
    end_spans,
    wait_until,
)
from tests.support.spool_spans import files_in, names_on_disk, spans_named

IMPATIENT: dict[str, Any] = {"schedule_delay_seconds": 0.01, "spill_after_seconds": 0.05}
LONG = 3600.0


def drained(delivery: HangingDelivery, processor: DeliveryProcessor) -> bool:
    delivery.release.set()
    return processor.force_flush(PATIENCE * 1000)


@pytest.mark.parametrize("traces", ["genai", "all"])
def test_spans_that_wait_for_an_answer_are_copied_to_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, traces: str
) -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(
        delivery, spool=Spool(tmp_path), max_batch_size=4, traces=traces, **IMPATIENT
    )
    with closing(processor) as tracer, caplog.at_level(logging.INFO):
        with tracer.start_as_current_span("root", attributes={"gen_ai.operation.name": "chat"}):
            names = {*end_spans(tracer, 10), "root"}
        delivery.entered.wait(PATIENCE)
        # Those that are being sent, and those that wait behind them.
        wait_until(lambda: names_on_disk(tmp_path) == names)
        status = processor.status()
        assert (status.queued, status.spilled, status.dropped) == (11, 0, 0)
        later = end_spans(tracer, 2, "later") if traces == "all" else []
        wait_until(lambda: names_on_disk(tmp_path) == {*names, *later})
        warning = "the fake store does not accept spans: it has not answered for 0 s"
        wait_until(lambda: warning in caplog.text)
        assert f"spans that wait longer are kept in {tmp_path}" in caplog.text
        assert drained(delivery, processor)
        assert set(delivery.names) == {*names, *later}
        wait_until(lambda: names_on_disk(tmp_path) == set())
        status = processor.status()
        assert (status.stored, status.spilled, status.missing) == (len(delivery.names), 0, 0)
        wait_until(lambda: "the fake store accepts spans again" in caplog.text)
    assert sum("does not accept spans" in record.message for record in caplog.records) == 1


class Postponing(FakeDelivery):
    """A destination that asks for a long wait, or answers if ``away`` is False."""

    away = True

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        if not self.away:
            return super().deliver(spans)
        self.attempts += 1
        return Retry("HTTP 429", after=LONG)


def test_spans_that_wait_for_retry_after_are_copied_to_the_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    delivery = Postponing()
    backoff = Backoff(first=0.001, longest=0.01)
    processor = DeliveryProcessor(delivery, spool=Spool(tmp_path), backoff=backoff, **IMPATIENT)
    with closing(processor) as tracer, caplog.at_level(logging.WARNING):
        names = {*end_spans(tracer, 3)}
        wait_until(lambda: names_on_disk(tmp_path) == names)
        names |= {*end_spans(tracer, 3, "later")}
        wait_until(lambda: names_on_disk(tmp_path) == names)
        wait_until(lambda: "does not accept spans: HTTP 429, for" in caplog.text)
        assert delivery.attempts == 1


def test_spans_are_copied_while_the_spool_is_being_delivered(tmp_path: Path) -> None:
    before = Spool(tmp_path)
    assert before.accept(spans_named("before"))
    before.close()
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, spool=Spool(tmp_path), **IMPATIENT)
    with closing(processor) as tracer:
        processor.warm_up()
        delivery.entered.wait(PATIENCE)
        names = {*end_spans(tracer, 3)}
        wait_until(lambda: names_on_disk(tmp_path) == {"before", *names})
        assert drained(delivery, processor)


def test_spans_are_copied_while_the_destination_is_being_opened(tmp_path: Path) -> None:
    class Opening(FakeDelivery):
        may_open = threading.Event()

        def warm_up(self) -> None:
            super().warm_up()
            self.may_open.wait(PATIENCE)

    delivery = Opening()
    processor = DeliveryProcessor(delivery, spool=Spool(tmp_path), **IMPATIENT)
    with closing(processor) as tracer:
        processor.warm_up()
        delivery.warmed_up.wait(PATIENCE)
        names = {*end_spans(tracer, 3)}
        wait_until(lambda: names_on_disk(tmp_path) == names)
        delivery.may_open.set()
        assert processor.force_flush(PATIENCE * 1000)


def test_without_a_spool_there_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(delivery, **IMPATIENT)
    with closing(processor) as tracer, caplog.at_level(logging.WARNING):
        end_spans(tracer, 3)
        wait_until(lambda: "it has not answered for" in caplog.text)
        assert "no span is lost while fewer than 20000 wait" in caplog.text
        assert drained(delivery, processor)


def test_a_destination_that_answers_leaves_the_disk_alone(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    processor = DeliveryProcessor(FakeDelivery(), spool=Spool(directory), **IMPATIENT)
    with closing(processor) as tracer:
        for _ in range(20):
            end_spans(tracer, 5)
            assert processor.force_flush(PATIENCE * 1000)
    assert not directory.exists()


def test_the_next_process_delivers_the_copies_of_a_killed_process(tmp_path: Path) -> None:
    delivery = HangingDelivery()
    spool = Spool(tmp_path)
    processor = DeliveryProcessor(delivery, spool=spool, **IMPATIENT)
    with closing(processor) as tracer:
        names = {*end_spans(tracer, 5)}
        wait_until(lambda: names_on_disk(tmp_path) == names)
        spool.close()  # The kernel would release the locks.
        after = FakeDelivery()
        next_process = DeliveryProcessor(after, spool=Spool(tmp_path), **IMPATIENT)
        with closing(next_process):
            next_process.warm_up()
            wait_until(lambda: set(after.names) == names)
        delivery.release.set()


def test_spans_are_copied_while_the_exit_waits(tmp_path: Path) -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(
        delivery, spool=Spool(tmp_path), max_batch_size=10, exit_timeout_seconds=LONG
    )
    with closing(processor) as tracer:
        names = {*end_spans(tracer, 1000)}
        closed = threading.Thread(target=processor._before_exit)
        closed.start()
        wait_until(lambda: names_on_disk(tmp_path) == names)
        delivery.release.set()
        closed.join(PATIENCE)
        # The copies of stored spans are removed.
        assert (set(delivery.names), names_on_disk(tmp_path)) == (names, set())
    assert processor.status().spilled == 0


def test_a_span_that_is_settled_while_it_is_copied_has_no_copy(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spans = spans_named("a", "b", "c")
    seen = iter([spans, spans[2:], spans[2:], spans[2:]])
    copying = Copying(lambda: next(seen))
    assert copying.begin()
    assert not copying.begin()
    assert copying.go_on(spool)
    assert [spool.has_written_ahead(span) for span in spans] == [False, False, True]
    assert not copying.go_on(spool)
    assert copying.begin()
    spool.close()


def test_a_span_that_cannot_be_written_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_line(spans: Sequence[ReadableSpan], limit: int = 0) -> tuple[bytes, int]:
        if any(span.name == "bad" for span in spans):
            raise RecursionError("endless")
        return real(spans, limit)

    real = encoder.first_line
    monkeypatch.setattr("mlflow_bridge._delivery.spool.writer.first_line", first_line)
    spool = Spool(tmp_path)
    spans = spans_named("a", "bad", "c", "d", "bad", "f")
    copying = Copying(lambda: spans)
    copying.begin()
    steps = 0
    while copying.go_on(spool):
        steps += 1
        assert steps < 20
    assert names_on_disk(tmp_path) == {"a", "c", "d", "f"}
    assert spool.status().dropped == 0
    spool.close()


def test_copies_drop_no_file_and_stop_no_spill(tmp_path: Path) -> None:
    full = Spool(tmp_path, max_bytes=4000, segment_bytes=1000)
    while not full.status().dropped and full.accept(spans_named("older", "older")):
        pass
    dropped, sizes = full.status().dropped, [file.stat().st_size for file in files_in(tmp_path)]
    assert full.copy_first(spans_named("copy")) == 0
    assert [file.stat().st_size for file in files_in(tmp_path)] == sizes
    assert full.status().dropped == dropped
    assert full.accept(spans_named("newer"))
    full.close()


def test_a_disk_that_refuses_ends_the_copying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(spool._directory, "create", refuse)
    copying = Copying(lambda: spans_named("a", "b"))
    assert copying.begin()
    assert not copying.go_on(spool)
    assert copying.begin()


def test_answers_that_are_slow_but_come_make_no_copy(tmp_path: Path) -> None:
    directory = tmp_path / "spool"
    delivery = FakeDelivery(seconds=0.02)
    processor = DeliveryProcessor(
        delivery,
        spool=Spool(directory),
        max_batch_size=1,
        backoff=FAST,
        schedule_delay_seconds=0.01,
        spill_after_seconds=PATIENCE,
    )
    with closing(processor) as tracer:
        end_spans(tracer, 20)
        assert processor.force_flush(PATIENCE * 1000)
    assert (len(delivery.names), directory.exists()) == (20, False)
