# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Nothing that a file, a disk or a span raises ends a thread of the delivery."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_bridge._delivery.collector import Collector
from mlflow_bridge._delivery.sender import Sender
from mlflow_bridge._delivery.spill import SpillWriter
from mlflow_bridge._delivery.spool.directory import files_set_aside
from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool
from mlflow_bridge._spans.otlp_json.decoder import spans_in
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
from tests.support.spool_spans import files_in

LINE = (
    b'{"resourceSpans":[{"resource":{"attributes":[]},"scopeSpans":[{"scope":{"name":"x"},"spans":'
    b'[{"traceId":"%032x","spanId":"%016x","name":"old","kind":1,"startTimeUnixNano":%b,'
    b'"endTimeUnixNano":"1800000000000000001","flags":1,"attributes":[]}]}]}]}\n'
)
BAD_LINES = {
    "infinite time": LINE % (7, 8, b"1e999"),
    "deep nesting": LINE % (7, 8, b"[" * 100_000 + b"]" * 100_000),
    "no utf-8": LINE % (7, 8, b'"\xff\xfe"'),
    "no time": LINE % (7, 8, b"null"),
    "a list": b"[1, 2, 3]\n",
    "a number": b"17\n",
    "zeros": b"\0" * 1000 + b"\n",
}
GOOD_LINE = LINE % (9, 10, b'"1800000000000000000"')


def processor_for(delivery: FakeDelivery, spool: Spool | None, **options: Any) -> DeliveryProcessor:
    settings: dict[str, Any] = {"schedule_delay_seconds": 0.001, "backoff": FAST}
    return DeliveryProcessor(delivery, spool=spool, **(settings | options))


def put_file(path: Path, text: bytes, *, name: str = "01800000000000000000-1-aaaaaaaa") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    file = path / f"{name}.v1.jsonl"
    file.write_bytes(text)
    return file


def check_that_live_spans_are_delivered(processor: DeliveryProcessor, tracer: Any) -> None:
    before = processor.status().stored
    for _ in range(2):
        end_spans(tracer, 3)
        assert processor.force_flush(PATIENCE * 1000)
    assert processor.status().stored == before + 6
    assert processor.status().dead_threads == ()


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_cannot_be_read_holds_up_neither_live_spans_nor_other_lines(
    tmp_path: Path, line: bytes
) -> None:
    put_file(tmp_path, line + GOOD_LINE)
    delivery = FakeDelivery()
    processor = processor_for(delivery, Spool(tmp_path))
    with closing(processor) as tracer:
        processor.warm_up()
        wait_until(lambda: not files_in(tmp_path))
        check_that_live_spans_are_delivered(processor, tracer)
        assert processor.status().spool_dropped == 1
    assert "old" in delivery.names
    # The line is not deleted: an operator may look into the file.
    [file] = files_set_aside(tmp_path)
    assert file.path.read_bytes() == line + GOOD_LINE


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_no_line_raises_anything_but_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        spans_in(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
FIELDS = (
    "traceId",
    "spanId",
    "parentSpanId",
    "name",
    "kind",
    "flags",
    "traceState",
    "startTimeUnixNano",
    "attributes",
    "events",
    "links",
    "status",
    "droppedEventsCount",
)


def changed_line(field: str, value: Any) -> bytes:
    found: Any = json.loads(GOOD_LINE)
    found["resourceSpans"][0]["scopeSpans"][0]["spans"][0][field] = value
    return json.dumps(found).encode() + b"\n"


LINES = st.one_of(
    st.binary(max_size=200).map(lambda text: text + b"\n"),
    JSON.map(lambda value: json.dumps(value).encode() + b"\n"),
    st.builds(changed_line, st.sampled_from(FIELDS), JSON),
    st.just(GOOD_LINE),
)


@settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(lines=st.lists(LINES, min_size=1, max_size=6), undecided=st.booleans())
def test_whatever_is_in_a_file_live_spans_are_delivered(
    lines: list[bytes], undecided: bool
) -> None:
    directory = Path(tempfile.mkdtemp(prefix="spool-fuzz-"))
    try:
        name = "01800000000000000000-1-aaaaaaaa" + (".undecided" if undecided else "")
        put_file(directory, b"".join(lines), name=name)
        processor = processor_for(FakeDelivery(), Spool(directory), traces="genai")
        with closing(processor) as tracer:
            processor.warm_up()
            wait_until(lambda: not files_in(directory))
            tracer.start_span("live", attributes={"gen_ai.operation.name": "chat"}).end()
            assert processor.force_flush(PATIENCE * 1000)
            status = processor.status()
            assert (status.stored, status.dead_threads) == (1, ())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# --- a disk that fails


class Broken(Exception):
    """An error that no code expects."""


def raises(error: BaseException) -> Callable[..., Any]:
    def raise_it(*_: object, **__: object) -> Any:
        raise error

    return raise_it


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), MemoryError(), SystemExit(1), Broken()], ids=repr
)
@pytest.mark.parametrize("method", ["open_for_reading", "delete", "close"])
def test_a_file_that_raises_is_set_aside_after_some_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException
) -> None:
    monkeypatch.setattr("mlflow_bridge._delivery.spool.redelivery._SCAN_SECONDS", 0.01)
    bad = put_file(tmp_path, GOOD_LINE)
    put_file(tmp_path, LINE % (11, 12, b'"1800000000000000000"'), name="02-2-b")
    real: Any = getattr(Segment, method)

    def broken(segment: Segment) -> Any:
        if segment.path.name.startswith(bad.name[:20]):
            if method == "close":
                real(segment)
            raise error
        return real(segment)

    monkeypatch.setattr(Segment, method, broken)
    delivery = FakeDelivery()
    processor = processor_for(delivery, Spool(tmp_path))
    with closing(processor) as tracer:
        processor.warm_up()
        wait_until(lambda: not list(tmp_path.glob("02-*")))
        check_that_live_spans_are_delivered(processor, tracer)
    assert "old" in delivery.names


def test_a_directory_that_raises_stops_no_live_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path)
    monkeypatch.setattr(spool, "acquire", raises(Broken()))
    processor = processor_for(FakeDelivery(), spool)
    with closing(processor) as tracer:
        processor.warm_up()
        wait_until(lambda: "could not be delivered" in caplog.text)
        check_that_live_spans_are_delivered(processor, tracer)
    assert caplog.text.count("could not be delivered") == 1


# --- the threads


@pytest.mark.parametrize("method", ["_next_batch", "_settle", "_send"])
@pytest.mark.parametrize("error", [Broken(), SystemExit(1)], ids=repr)
def test_the_sender_survives(
    monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException
) -> None:
    real: Any = getattr(Sender, method)
    calls: list[object] = []

    def fails_once(sender: Sender, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            raise error
        return real(sender, *arguments)

    monkeypatch.setattr(Sender, method, fails_once)
    delivery = FakeDelivery()
    processor = processor_for(delivery, None)
    with closing(processor) as tracer:
        names = end_spans(tracer, 3)
        assert processor.force_flush(PATIENCE * 1000)
        status = processor.status()
    assert (status.stored, status.dropped, status.dead_threads) == (3, 0, ())
    assert set(delivery.names) == set(names)


def test_a_batch_that_raises_every_time_is_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Sender._settle

    def fails(sender: Sender, batch: Any, outcome: Any) -> None:
        if batch[0].name == "bad":
            raise Broken
        real(sender, batch, outcome)

    monkeypatch.setattr(Sender, "_settle", fails)
    processor = processor_for(FakeDelivery(), None)
    with closing(processor) as tracer:
        tracer.start_span("bad").end()
        assert not processor.force_flush(PATIENCE * 1000)
        check_that_live_spans_are_delivered(processor, tracer)
        assert processor.status().dropped == 1


@pytest.mark.parametrize("error", [Broken(), SystemExit(1)], ids=repr)
def test_the_collector_survives(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    real = Collector._await_batch
    calls: list[object] = []

    def fails_once(collector: Collector) -> None:
        calls.append(collector)
        if len(calls) == 1:
            raise error
        real(collector)

    monkeypatch.setattr(Collector, "_await_batch", fails_once)
    processor = processor_for(FakeDelivery(), None)
    with closing(processor) as tracer:
        check_that_live_spans_are_delivered(processor, tracer)


@pytest.mark.parametrize("error", [Broken(), SystemExit(1)], ids=repr)
def test_the_spill_writer_survives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    real = SpillWriter._settle
    calls: list[object] = []

    def fails_once(writer: SpillWriter) -> bool:
        calls.append(writer)
        if len(calls) == 1:
            raise error
        return real(writer)

    monkeypatch.setattr(SpillWriter, "_settle", fails_once)
    delivery = HangingDelivery()
    processor = processor_for(delivery, Spool(tmp_path), max_queue_size=2)
    with closing(processor) as tracer:
        names = end_spans(tracer, 10)
        wait_until(lambda: processor.status().spilled == 8)
        delivery.release.set()
        wait_until(lambda: set(delivery.names) == set(names))
        assert processor.status().dead_threads == ()


@pytest.mark.parametrize("thread", ["sender", "filter", "spill"])
def test_a_thread_that_ends_is_reported_and_its_spans_go_to_the_spool(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    thread: str,
) -> None:
    part = {"sender": Sender, "filter": Collector, "spill": SpillWriter}[thread]
    monkeypatch.setattr(part, "_run", lambda _: None)
    delivery = FakeDelivery() if thread != "spill" else HangingDelivery()
    processor = processor_for(delivery, Spool(tmp_path), max_queue_size=5, exit_timeout_seconds=0.5)
    with closing(processor) as tracer:
        end_spans(tracer, 10)
        wait_until(lambda: processor.status().dead_threads == (f"mlflow-bridge-{thread}",))
        if isinstance(delivery, HangingDelivery):
            delivery.release.set()
        processor.close()
        status = processor.status()
    assert (status.dropped, status.queued) == (0, 0)
    assert status.stored + status.spilled == 10
    assert f"The thread mlflow-bridge-{thread} has ended" in caplog.text
