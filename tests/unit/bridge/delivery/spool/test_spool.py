# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The spool alone: the spans that it keeps, gives out and drops, and the owners of its files."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from mlflow_bridge._delivery.spool.segment import Segment
from mlflow_bridge._delivery.spool.spool import Spool
from tests.support.spool_spans import (
    drained,
    endless,
    files_in,
    names_of,
    span_with,
    spans_named,
)


def test_no_file_is_made_before_the_first_span(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", write_ahead=True)
    assert spool.acquire() is None
    assert spool.status().bytes == 0
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_spans_are_given_out_in_order_and_removed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", segment_bytes=2000)
    spans = spans_named(*"abcdefgh")
    for span in spans:
        assert spool.accept((span,))
    assert len(files_in(tmp_path)) > 2
    assert spool.status().bytes > 2000
    assert drained(spool) == names_of(spans)
    assert files_in(tmp_path) == []
    assert not spool.has_own_backlog


def test_only_the_user_may_read_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.accept((span_with(),))
    (file,) = files_in(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    spool.close()


def test_a_living_owner_keeps_its_files(tmp_path: Path) -> None:
    owner, other = Spool(tmp_path, segment_bytes=1, write_ahead=True), Spool(tmp_path)
    for span in spans_named("full", "growing"):
        owner.accept((span,))
        owner.write_ahead(span)
    assert drained(other) == []
    owner.close()
    assert sorted(drained(other)) == ["full", "full", "growing", "growing"]


def test_a_new_file_cannot_be_seen_before_it_is_owned(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path)
    assert Segment.adopt(segment.path) is None
    segment.close()
    other = Segment.adopt(segment.path)
    assert other is not None
    other.delete()
    assert Segment.adopt(segment.path) is None


def test_the_oldest_file_is_dropped_at_the_limit_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path, max_bytes=8000, segment_bytes=1)
    names = [f"span {n}" for n in range(40)]
    with caplog.at_level(logging.WARNING):
        for span in spans_named(*names):
            assert spool.accept((span,))
    assert spool.status().bytes <= 8000
    left = drained(spool)
    assert left == names[-len(left) :]
    assert 0 < len(left) < 40
    status = spool.status()
    assert (status.dropped, status.dropped_own) == (40 - len(left), 40 - len(left))
    assert [record.message for record in caplog.records if "spool_max_bytes" in record.message] == [
        f"The oldest 1 spans of the spool {tmp_path} are lost: "
        "there is no room (setting: spool_max_bytes)."
    ]


def test_spans_of_dead_processes_are_dropped_first_and_counted(tmp_path: Path) -> None:
    dead = Spool(tmp_path, segment_bytes=1)
    for span in spans_named("a", "b", "c"):
        dead.accept((span, span))
    dead.close()
    size = dead.status().bytes
    spool = Spool(tmp_path, max_bytes=size + 1, segment_bytes=1)
    assert spool.accept(spans_named("new"))
    assert spool.status().dropped in (2, 4)
    assert spool.status().dropped_own == 0
    assert drained(spool)[0] == "new"


def test_a_full_spool_without_a_file_to_drop_refuses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    living = Spool(tmp_path)
    living.accept((span_with({"x": "x" * 5000}),))
    spool = Spool(tmp_path, max_bytes=5000)
    with caplog.at_level(logging.WARNING):
        assert not spool.accept((span_with(),))
        assert not spool.accept((span_with(),))
    (record,) = caplog.records
    assert "spool_max_bytes" in record.message
    assert drained(living) == ["predict"]


def test_expired_spans_are_dropped_and_counted(tmp_path: Path) -> None:
    dead = Spool(tmp_path)
    dead.accept(spans_named("a", "b"))
    dead.close()
    yesterday = time.time() - 86_400
    os.utime(files_in(tmp_path)[0], (yesterday, yesterday))
    spool = Spool(tmp_path, max_age_seconds=3600)
    spool.accept(spans_named("new"))
    assert drained(spool) == ["new"]
    assert spool.status().dropped == 2
    assert files_in(tmp_path) == []


def test_empty_and_unfinished_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / "0-1-a.jsonl").touch()
    for name, age in (("old.new", 7200.0), ("young.new", 0.0)):
        (tmp_path / name).touch()
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    assert drained(Spool(tmp_path)) == []
    assert [file.name for file in tmp_path.iterdir()] == ["young.new"]


def test_the_age_of_the_oldest_file_is_reported(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.status().oldest_seconds == 0
    name = f"{time.time_ns() - 10**12:020d}-1-a.jsonl"
    (tmp_path / name).write_bytes(b"x")
    assert 1000 <= spool.status().oldest_seconds < 1100


@pytest.mark.parametrize("write_ahead", [False, True])
def test_a_directory_that_cannot_be_used_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, write_ahead: bool
) -> None:
    (tmp_path / "file").touch()
    spool = Spool(tmp_path / "file" / "spool", write_ahead=write_ahead)
    with caplog.at_level(logging.WARNING):
        for span in spans_named("a", "b", "c"):
            assert not spool.accept((span,))
            spool.write_ahead(span)
            spool.settled((span,))
        assert spool.acquire() is None
        spool.close()
    (record,) = caplog.records
    assert "cannot keep spans" in record.message
    assert spool.status().not_written_ahead == (3 if write_ahead else 0)


@pytest.mark.parametrize("part", [0.5, None])
def test_a_full_disk_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: float | None
) -> None:
    spool = Spool(tmp_path)
    assert spool.accept(spans_named("before"))
    write, clock = os.write, [1000.0]

    def short_write(descriptor: int, data: bytes) -> int:
        if part is None:
            raise OSError(errno.ENOSPC, "no space left")
        return write(descriptor, data[: int(len(data) * part)])

    with monkeypatch.context() as full:
        full.setattr("mlflow_bridge._delivery.spool.segment.os.write", short_write)
        full.setattr("mlflow_bridge._delivery.spool.spool.time.monotonic", lambda: clock[0])
        assert not spool.accept(spans_named("during"))
        # The disk is not tried again at once.
        full.setattr("mlflow_bridge._delivery.spool.segment.os.write", write)
        assert not spool.accept(spans_named("during"))
        clock[0] += 2
        assert spool.accept(spans_named("after"))
    assert drained(spool) == ["before", "after"]


def test_no_line_is_added_to_a_file_that_stays_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.accept(spans_named("before"))

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as broken:
        broken.setattr("mlflow_bridge._delivery.spool.segment.os.write", fail)
        broken.setattr("mlflow_bridge._delivery.spool.segment.os.ftruncate", fail)
        assert not spool.accept(spans_named("during"))
    monkeypatch.setattr("mlflow_bridge._delivery.spool.spool._PAUSE_SECONDS", 0)
    spool._refuses_until = 0.0
    assert spool.accept(spans_named("after"))
    assert len(files_in(tmp_path)) == 2
    assert drained(spool) == ["before", "after"]


def test_a_file_that_cannot_be_removed_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.accept(spans_named("a"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "read-only")

    with monkeypatch.context() as read_only:
        read_only.setattr(Path, "unlink", fail)
        assert drained(spool) == ["a"]
    assert spool.status().bytes == 0
    assert drained(Spool(tmp_path)) == []


@pytest.mark.parametrize("value", [endless(), "x" * 60_000], ids=["endless", "too large"])
def test_a_span_that_can_never_be_kept_costs_no_other_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: Any
) -> None:
    spool = Spool(tmp_path, max_bytes=50_000)
    assert spool.accept(spans_named("before"))
    before, after = spans_named("a", "b"), spans_named("c", "d", "e")
    assert spool.accept([*before, span_with({"x": value}, name="poison", span_id=99), *after])
    assert drained(spool) == ["before", "a", "b", "c", "d", "e"]
    assert (spool.status().dropped, spool.status().dropped_own) == (1, 1)
    assert ["'poison'" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("kept", ["spilled", "written ahead", "given back"])
def test_a_removed_directory_loses_no_span(tmp_path: Path, kept: str) -> None:
    spool = Spool(tmp_path / "spool", write_ahead=True)
    first, second = spans_named("first", "second")
    for span in (first, second):
        if kept == "written ahead":
            spool.write_ahead(span)
        else:
            assert spool.accept([span])
        shutil.rmtree(tmp_path / "spool", ignore_errors=True)
    if kept == "given back":
        for segment in (spool.acquire(), spool.acquire()):
            assert segment is not None
            spool.release(segment, done=False)
    spool.close()
    assert sorted(drained(Spool(tmp_path / "spool"))) == ["first", "second"]
    assert spool.status().dropped == 0


def test_a_removed_file_is_still_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert spool.accept(spans_named("first"))
    shutil.rmtree(tmp_path / "spool")
    assert spool.accept(spans_named("second"))
    assert drained(spool) == ["first", "second"]


def test_a_removed_file_that_cannot_be_restored_is_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert spool.accept(spans_named("a", "b"))
    shutil.rmtree(tmp_path / "spool")
    (tmp_path / "spool").touch()
    spool.close()
    assert (spool.status().dropped, spool.status().dropped_own) == (2, 2)


def test_write_ahead_removes_settled_spans(tmp_path: Path) -> None:
    spool = Spool(tmp_path, write_ahead=True)
    spans = spans_named("a", "b", "c")
    for span in spans:
        spool.write_ahead(span)
    spool.settled(spans[:2])
    assert spool.status().bytes > 0
    spool.settled(spans[2:])
    assert spool.status().bytes == 0
    spool.close()
    assert files_in(tmp_path) == []


def test_write_ahead_removes_full_files_one_by_one(tmp_path: Path) -> None:
    spool = Spool(tmp_path, write_ahead=True, segment_bytes=1)
    spans = spans_named("a", "b", "c")
    for span in spans:
        spool.write_ahead(span)
    assert len(files_in(tmp_path)) == 3
    spool.settled(spans[:1])
    assert len(files_in(tmp_path)) == 2
    assert not spool.has_own_backlog
    spool.close()
    assert drained(Spool(tmp_path)) == ["b", "c"]


def test_spans_of_write_ahead_are_kept_without_being_written_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, write_ahead=True)
    spans = spans_named("a", "b", "c")
    spool.write_ahead(spans[0])
    size = spool.status().bytes
    assert spool.keep(spans[:1], until=0.0) == 1
    assert spool.status().bytes == size
    assert spool.keep(spans, until=math.inf) == 3
    spool.close()
    assert sorted(drained(Spool(tmp_path))) == ["a", "b", "c"]


def test_spans_are_kept_while_there_is_time(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert spool.keep(spans_named("a"), until=time.monotonic() - 1) == 0
    assert spool.keep(spans_named("a"), until=time.monotonic() + 60) == 1


@pytest.mark.parametrize("write_ahead", [False, True])
def test_a_span_that_ends_inside_of_a_write_is_kept_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_ahead: bool
) -> None:
    spool = Spool(tmp_path, write_ahead=write_ahead)
    outer, inner = spans_named("outer", "inner")
    append, nested = Segment.append, [inner]

    def keep(span: Any) -> None:
        if write_ahead:
            spool.write_ahead(span)
        else:
            assert spool.accept((span,))

    def interrupted(self: Segment, line: bytes, spans: int) -> None:
        if nested:
            keep(nested.pop())
        append(self, line, spans)

    monkeypatch.setattr(Segment, "append", interrupted)
    keep(outer)
    spool.close()
    assert sorted(drained(Spool(tmp_path))) == ["inner", "outer"]


@pytest.mark.parametrize("write_ahead", [False, True])
def test_each_batch_is_flushed_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_ahead: bool
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("mlflow_bridge._delivery.spool.segment.os.fsync", synced.append)
    Spool(tmp_path / "never").accept(spans_named("a", "b"))
    assert synced == []
    spool = Spool(tmp_path / "batch", fsync="batch", write_ahead=write_ahead)
    spool.accept(spans_named("a", "b"))
    assert len(synced) == 1
    for span in spans_named(*map(str, range(1024))):
        if write_ahead:
            spool.write_ahead(span)
        else:
            spool.spill((span,))
    assert len(synced) == 3
    spool.close()
