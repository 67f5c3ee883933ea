# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Many spans at once: the number of their lines in the spool, and writes to a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mlflow_bridge._delivery.spool.spool import Spool
from tests.support.spool_spans import (
    drained,
    endless,
    files_in,
    names_of,
    span_with,
    spans_named,
)


def lines_in(directory: Path) -> list[bytes]:
    return [line for file in files_in(directory) for line in file.read_bytes().splitlines()]


def test_many_spans_are_taken_in_lines_of_a_bounded_size(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=400_000, segment_bytes=100_000)
    spans = [span_with({"x": "x" * 10_000}, name=str(n), span_id=n + 1) for n in range(25)]
    assert spool.take(spans) == 25
    lines = lines_in(tmp_path)
    assert 3 <= len(lines) <= 5
    assert max(map(len, lines)) < 115_000
    assert drained(spool) == names_of(spans)


def test_many_small_spans_are_few_lines(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spans = spans_named(*map(str, range(600)))
    assert spool.take(spans) == 600
    assert len(lines_in(tmp_path)) == 2
    assert drained(spool) == names_of(spans)


def test_spans_that_a_full_disk_took_in_part_are_kept_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, segment_bytes=5_000)
    spans, write, room = spans_named(*map(str, range(40))), os.write, [2]

    def write_twice(descriptor: int, data: bytes) -> int:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "no space left")
        return write(descriptor, data)

    with monkeypatch.context() as full:
        full.setattr("mlflow_bridge._delivery.spool.segment.os.write", write_twice)
        taken = spool.take(spans)
    assert 0 < taken < 40
    spool._refuses_until = 0.0
    assert spool.take(spans[taken:]) == 40 - taken
    assert drained(spool) == names_of(spans)


def test_a_disk_that_is_nearly_full_takes_some_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spans, write = spans_named(*map(str, range(512))), os.write

    def write_a_little(descriptor: int, data: bytes) -> int:
        if len(data) > 200_000:
            raise OSError(errno.ENOSPC, "no space left")
        return write(descriptor, data)

    monkeypatch.setattr("mlflow_bridge._delivery.spool.segment.os.write", write_a_little)
    assert spool.take(spans) == 512
    assert len(lines_in(tmp_path)) > 1
    assert drained(spool) == names_of(spans)


@pytest.mark.parametrize("value", [endless(), "x" * 60_000], ids=["endless", "too large"])
def test_among_many_a_span_that_can_never_be_kept_costs_no_other(
    tmp_path: Path, value: Any
) -> None:
    spool = Spool(tmp_path, max_bytes=50_000)
    spans = spans_named(*map(str, range(20)))
    spans.insert(13, span_with({"x": value}, name="poison", span_id=99))
    assert spool.take(spans) == 21
    assert drained(spool) == [str(n) for n in range(20)]
    assert spool.status().dropped_own == 1
