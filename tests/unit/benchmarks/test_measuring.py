# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The parts that read files, other processes and stacks."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import sampling
from benchmarks.delivery.stores import complete_traces, raw_inserts
from benchmarks.delivery.traces import SPANS
from benchmarks.processes import RemoteError, Worker, apart
from benchmarks.sections.instructions import phase_total

SCHEMA = """
create table experiments (experiment_id integer primary key, name text);
create table trace_info (request_id text primary key, experiment_id integer
  references experiments (experiment_id));
create table spans (trace_id text references trace_info (request_id), span_id integer,
  start integer, stop integer, duration integer generated always as (stop - start) stored,
  primary key (trace_id, span_id));
create index by_start on spans (start);
insert into experiments values (1, 'Default');
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "store.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(SCHEMA)
        for trace, spans in (("a", SPANS), ("b", SPANS), ("incomplete", SPANS - 1)):
            connection.execute("insert into trace_info values (?, 1)", (trace,))
            for span in range(spans):
                row = trace, span, span, span + 5
                connection.execute(
                    "insert into spans (trace_id, span_id, start, stop) values (?, ?, ?, ?)", row
                )
        connection.commit()
    yield file


def test_only_traces_with_all_of_their_spans_count(store: Path) -> None:
    assert complete_traces(store) == 2


def test_raw_inserts_leave_the_same_rows(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "raw.db"

    assert raw_inserts(store, target)["traces"] == 3

    for query in ("select * from spans order by 1, 2", "select * from experiments"):
        with closing(sqlite3.connect(store)) as one, closing(sqlite3.connect(target)) as other:
            assert one.execute(query).fetchall() == other.execute(query).fetchall()


def test_the_file_of_a_phase_tells_its_name_and_its_instructions() -> None:
    text = "desc: Trigger: dump Predict floor\n\nsummary: 1200\n\ntotals: 1300\n"

    assert phase_total(text) == ("Predict floor", 1200)
    assert phase_total("desc: Trigger: Program termination\nsummary: 5\n") is None


def test_a_stack_belongs_to_its_innermost_frame_that_is_in_a_group() -> None:
    groups = [("this test", "test_measuring"), ("pytest", "/_pytest/")]

    # Looked at in every round: how often the timer comes by is the machine's affair.
    shares = sampling.profile(lambda: signal.raise_signal(signal.SIGPROF), 0.05, groups)

    assert shares["this test"] > 0.9


def test_a_function_is_called_in_another_process() -> None:
    assert apart("os:getpid") != apart("os:getpid")


def test_what_is_raised_there_is_told_here() -> None:
    with (
        pytest.raises(RemoteError, match="FileNotFoundError"),
        Worker("pathlib:Path", "/nowhere") as worker,
    ):
        worker.call("stat")
