# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A trace is delivered or filtered as a whole, whichever way its spans take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Span, Tracer, set_span_in_context

from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._export.contract import Outcome, Retry
from tests.support.fake_delivery import (
    FAST,
    PATIENCE,
    DeliveryProcessor,
    FakeDelivery,
    HangingDelivery,
    closing,
    tracer_for,
    wait_until,
)
from tests.support.spool_spans import files_in

GENAI = {"gen_ai.operation.name": "chat"}


def processor_for(delivery: FakeDelivery, path: Path, **options: Any) -> DeliveryProcessor:
    spool = Spool(path, write_ahead=options.pop("write_ahead", False))
    settings: dict[str, Any] = {
        "traces": "genai",
        "schedule_delay_seconds": 0.005,
        "backoff": FAST,
        "exit_timeout_seconds": PATIENCE,
    }
    return DeliveryProcessor(delivery, spool=spool, **(settings | options))


def end_chat(tracer: Tracer, name: str = "chat", parent: Span | None = None) -> None:
    context = None if parent is None else set_span_in_context(parent)
    tracer.start_span(name, context, attributes=GENAI).end()


@contextmanager
def without_slots(
    path: Path, **options: Any
) -> Iterator[tuple[Tracer, DeliveryProcessor, HangingDelivery]]:
    """A processor all of whose slots are taken by spans that a destination does not take yet."""
    delivery = HangingDelivery()
    processor = processor_for(delivery, path, max_queue_size=4, **options)
    with closing(processor) as tracer:
        for index in range(4):
            end_chat(tracer, f"first {index}")
        assert delivery.entered.wait(PATIENCE)
        yield tracer, processor, delivery
        delivery.release.set()


def is_settled(processor: DeliveryProcessor) -> bool:
    status = processor.status()
    return status.queued == status.kept == status.spool_bytes == 0


@pytest.mark.parametrize("write_ahead", [False, True])
def test_a_root_with_a_slot_is_sent_although_its_chat_had_none(
    tmp_path: Path, write_ahead: bool
) -> None:
    with without_slots(tmp_path, write_ahead=write_ahead) as (tracer, processor, delivery):
        roots = [tracer.start_span(f"root {index}") for index in range(20)]
        for root in roots:
            end_chat(tracer, "chat", root)
        delivery.release.set()
        wait_until(lambda: processor.status().queued == 0)
        for root in roots:
            root.end()
        wait_until(lambda: is_settled(processor))
        status = processor.status()
    assert delivery.names.count("chat") == 20
    assert sorted(set(delivery.names)) == sorted(
        {"chat", *(f"first {n}" for n in range(4)), *(f"root {n}" for n in range(20))}
    )
    assert (status.filtered, status.dropped, status.accepted) == (0, 0, 44)


@pytest.mark.parametrize("write_ahead", [False, True])
def test_plain_traces_without_a_slot_are_filtered(tmp_path: Path, write_ahead: bool) -> None:
    with without_slots(tmp_path, write_ahead=write_ahead) as (tracer, processor, delivery):
        for _ in range(50):
            root = tracer.start_span("GET /health")
            tracer.start_span("query", set_span_in_context(root)).end()
            root.end()
        wait_until(lambda: processor.status().filtered == 100)
        status = processor.status()
        assert (status.accepted, status.queued, status.spilled) == (104, 4, 0)
        delivery.release.set()
        wait_until(lambda: is_settled(processor))
    assert sorted(delivery.names) == [f"first {n}" for n in range(4)]


@pytest.mark.parametrize("write_ahead", [False, True])
def test_spans_before_the_first_chat_are_delivered_with_it(
    tmp_path: Path, write_ahead: bool
) -> None:
    with without_slots(tmp_path, write_ahead=write_ahead) as (tracer, processor, delivery):
        root = tracer.start_span("request")
        tracer.start_span("auth", set_span_in_context(root)).end()
        wait_until(lambda: processor.status().held == 1)
        end_chat(tracer, "chat", root)
        root.end()
        wait_until(lambda: processor.status().spilled == 3)
        delivery.release.set()
        wait_until(lambda: is_settled(processor))
        assert processor.status().filtered == 0
    assert sorted(delivery.names[4:]) == ["auth", "chat", "request"]


def test_the_root_of_a_trace_that_goes_on_waits_for_a_slot(tmp_path: Path) -> None:
    delivery = HangingDelivery()
    processor = processor_for(delivery, tmp_path, max_queue_size=2, max_spill_queue_size=1)
    with closing(processor) as tracer:
        root = tracer.start_span("request")
        root.end()
        wait_until(lambda: processor.status().filtered == 1)
        end_chat(tracer, "first")
        assert delivery.entered.wait(PATIENCE)
        end_chat(tracer, "late chat", root)
        end_chat(tracer, "last")
        delivery.release.set()
        wait_until(lambda: processor.status().filtered == 0)
        wait_until(lambda: is_settled(processor))
        assert processor.status().accepted == 4
    assert sorted(delivery.names) == ["first", "last", "late chat", "request"]


def test_a_successor_gets_held_spans_that_have_no_slot(tmp_path: Path) -> None:
    with without_slots(tmp_path / "old") as (tracer, old, delivery):
        root = tracer.start_span("request")
        tracer.start_span("auth", set_span_in_context(root)).end()
        wait_until(lambda: old.status().held == 1)
        new_delivery = FakeDelivery()
        new = processor_for(new_delivery, tmp_path / "new")
        with closing(new) as new_tracer:
            new._take_over(old)
            delivery.release.set()
            assert old.close(end_open_spans=False)
            assert (old.status().accepted, old.status().queued) == (4, 0)
            end_chat(new_tracer, "chat", root)
            assert new.force_flush(PATIENCE * 1000)
            assert sorted(new_delivery.names) == ["auth", "chat"]


def test_a_root_is_sent_although_its_chat_is_lost() -> None:
    delivery = HangingDelivery()
    processor = DeliveryProcessor(
        delivery, max_queue_size=1, block_seconds=0.0, traces="genai", schedule_delay_seconds=0.005
    )
    with closing(processor) as tracer:
        root = tracer.start_span("request")
        end_chat(tracer, "first")
        assert delivery.entered.wait(PATIENCE)
        end_chat(tracer, "lost", root)
        delivery.release.set()
        wait_until(lambda: processor.status().stored == 1)
        root.end()
        assert processor.force_flush(PATIENCE * 1000)
        status = processor.status()
    assert delivery.names == ["first", "request"]
    assert (status.dropped, status.filtered, status.accepted) == (1, 0, 3)


# --- spools of processes that were killed


class Away(FakeDelivery):
    """A destination that takes the spans with these names, and no others."""

    def __init__(self, *taken: str) -> None:
        super().__init__()
        self._taken = taken

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        if all(span.name in self._taken for span in spans):
            return super().deliver(spans)
        return Retry("connection refused")


class Killed:
    """A process that writes ahead, and is killed: its files have no owner then."""

    def __init__(self, path: Path, *taken: str, **options: Any) -> None:
        self._path = path
        self.delivery = Away(*taken)
        self.processor = processor_for(
            self.delivery, path, write_ahead=True, spill_after_seconds=3600, **options
        )
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(self.processor)
        self.tracer = provider.get_tracer("test")

    def end_trace(self, *names: str) -> None:
        """End spans below a root; names with "chat" are GenAI spans, the last name is the root."""
        root = self.tracer.start_span(names[-1])
        for name in names[:-1]:
            attributes = GENAI if "chat" in name else {}
            context = set_span_in_context(root)
            self.tracer.start_span(name, context, attributes=attributes).end()
        root.end()

    def kill(self) -> None:
        copies = {file.name: file.read_bytes() for file in files_in(self._path)}
        self.processor.close(timeout_seconds=0)
        # Under load, the thread may still be about to write what it held.
        self.processor._collector.thread.join(PATIENCE)
        for file in files_in(self._path):
            file.unlink()
        for name, text in copies.items():
            if text:
                (self._path / name).write_bytes(text)


def delivered_by_the_next_process(path: Path, **options: Any) -> tuple[list[str], Any]:
    delivery = FakeDelivery()
    processor = processor_for(delivery, path, **options)
    with closing(processor):
        processor.warm_up()
        wait_until(lambda: not files_in(path))
        status = processor.status()
    return sorted(delivery.names), status


def test_plain_traces_of_a_killed_process_are_filtered(tmp_path: Path) -> None:
    killed = Killed(tmp_path, schedule_delay_seconds=3600)
    for _ in range(10):
        killed.end_trace("query", "GET /health")
    killed.end_trace("auth", "chat", "POST /ask")
    killed.kill()
    names, status = delivered_by_the_next_process(tmp_path)
    assert names == ["POST /ask", "auth", "chat"]
    assert (status.redelivered, status.spool_filtered, status.spool_dropped) == (3, 20, 0)
    assert (status.accepted, status.filtered, status.missing) == (0, 0, 0)


def test_with_all_traces_the_next_process_delivers_everything(tmp_path: Path) -> None:
    killed = Killed(tmp_path, schedule_delay_seconds=3600)
    killed.end_trace("query", "GET /health")
    killed.kill()
    names, status = delivered_by_the_next_process(tmp_path, traces="all")
    assert (names, status.spool_filtered) == (["GET /health", "query"], 0)


def test_a_root_is_delivered_whose_chat_the_killed_process_had_sent(tmp_path: Path) -> None:
    killed = Killed(tmp_path, "chat")
    root = killed.tracer.start_span("POST /ask")
    end_chat(killed.tracer, "chat", root)
    wait_until(lambda: killed.processor.status().stored == 1)
    root.end()
    wait_until(lambda: killed.processor.status().retried > 0)
    killed.kill()
    assert b"gen_ai" not in b"".join(file.read_bytes() for file in files_in(tmp_path))
    names, status = delivered_by_the_next_process(tmp_path)
    assert (names, status.spool_filtered) == (["POST /ask"], 0)


def test_the_spans_of_a_wanted_trace_are_delivered_from_whichever_file(tmp_path: Path) -> None:
    killed = Killed(tmp_path, schedule_delay_seconds=3600)
    for n in range(3):
        killed.end_trace("auth", "chat", f"POST /ask {n}")
        killed.end_trace("query", "GET /health")
    killed.kill()
    [file] = files_in(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    file.unlink()
    for n, line in enumerate(lines):
        (tmp_path / f"{n:020d}-1-0{''.join(file.suffixes)}").write_bytes(line)
    names, status = delivered_by_the_next_process(tmp_path)
    assert names == sorted([*["auth", "chat"] * 3, *(f"POST /ask {n}" for n in range(3))])
    assert status.spool_filtered == 6


def test_a_process_filters_by_its_own_knowledge_of_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_bridge._delivery.spool.redelivery._SCAN_SECONDS", 0.05)
    delivery = FakeDelivery()
    with closing(processor_for(delivery, tmp_path)) as tracer:
        child = Killed(tmp_path / "child", schedule_delay_seconds=3600)
        root = child.tracer.start_span("root")
        end_chat(tracer, "chat", root)
        wait_until(lambda: delivery.names == ["chat"])
        child.tracer.start_span("query of a child", set_span_in_context(root)).end()
        child.kill()
        [file] = files_in(tmp_path / "child")
        file.rename(tmp_path / file.name)
        wait_until(lambda: not files_in(tmp_path))
    assert delivery.names == ["chat", "query of a child"]


def test_a_span_after_the_shutdown_is_filtered_by_the_next_process(tmp_path: Path) -> None:
    processor = processor_for(FakeDelivery(), tmp_path)
    tracer = tracer_for(processor)
    wanted = tracer.start_span("POST /ask")
    end_chat(tracer, "chat", wanted)
    assert processor.close(end_open_spans=False)
    wanted.end()
    tracer.start_span("GET /health").end()
    assert processor.status().spilled == 2
    processor._spool.close()  # type: ignore[union-attr]
    names, status = delivered_by_the_next_process(tmp_path)
    assert (names, status.spool_filtered) == (["POST /ask"], 1)


def test_files_without_a_mark_are_delivered(tmp_path: Path) -> None:
    killed = Killed(tmp_path, schedule_delay_seconds=3600)
    killed.end_trace("GET /health")
    killed.kill()
    [file] = files_in(tmp_path)
    file.rename(tmp_path / f"{file.name.split('.')[0]}.v1.jsonl")
    names, status = delivered_by_the_next_process(tmp_path)
    assert (names, status.spool_filtered) == (["GET /health"], 0)


def test_a_disk_that_refuses_loses_no_span_on_its_way_to_the_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Segment, "append", refuses)
    with without_slots(tmp_path) as (tracer, processor, delivery):
        root = tracer.start_span("request")
        tracer.start_span("auth", set_span_in_context(root)).end()
        end_chat(tracer, "chat", root)
        root.end()
        delivery.release.set()
        assert processor.force_flush(PATIENCE * 1000)
        status = processor.status()
    assert (status.stored, status.accepted, status.dropped) == (7, 7, 0)
    assert sorted(delivery.names[4:]) == ["auth", "chat", "request"]
