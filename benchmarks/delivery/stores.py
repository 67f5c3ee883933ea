# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Reads and writes of MLflow's SQLite file without MLflow."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.delivery.traces import SPANS

_TRACES_IN_A_WRITE = 512 // SPANS
_SETTLED_SECONDS = 8.0
"""Longer than the five seconds after which MLflow's exporter writes waiting spans at the latest."""


def complete_traces(file: Path) -> int:
    """Count the traces that have all of their spans."""
    query = (
        "select count(*) from (select s.trace_id from spans s"
        " join trace_info t on t.request_id = s.trace_id"
        " group by s.trace_id having count(*) = ?)"
    )
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=60)) as connection:
        return connection.execute(query, (SPANS,)).fetchone()[0]


def settled_traces(file: Path, expected: int, *, patience: float = 300.0) -> int:
    """Wait until all traces are complete, or no more become so. Returns the number complete."""
    deadline = time.monotonic() + patience
    count, since = complete_traces(file), time.monotonic()
    while count < expected and time.monotonic() < deadline:
        if time.monotonic() - since > _SETTLED_SECONDS:
            break
        time.sleep(0.5)
        latest = complete_traces(file)
        if latest != count:
            count, since = latest, time.monotonic()
    return count


def raw_inserts(file: Path, target: Path) -> dict[str, float]:
    """Write the rows of all traces in one file into a new one with the same tables.

    A transaction has as many traces as the bridge writes at once; reading is not timed.

    Returns:
        ``traces``, and ``wall`` and ``cpu`` in seconds.
    """
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(target)) as sink:
        tables = _copy_schema(source, sink)
        traced = {name: key for name, key in tables.items() if key is not None}
        for name in tables.keys() - traced.keys():
            _copy_rows(source, sink, name)
        sink.commit()
        batches = [_rows_of(source, traced, ids) for ids in _trace_ids(source)]
        cpu, start = time.process_time(), time.perf_counter()
        for batch in batches:
            for statement, rows in batch:
                sink.executemany(statement, rows)
            sink.commit()
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        traces = source.execute("select count(*) from trace_info").fetchone()[0]
    return {"traces": traces, "wall": wall, "cpu": cpu}


def _copy_schema(source: sqlite3.Connection, sink: sqlite3.Connection) -> dict[str, str | None]:
    """Copy the tables. Returns each table with its column that names a trace, or None."""
    found: dict[str, str | None] = {}
    query = (
        "select type, name, sql from sqlite_master where sql is not null and"
        " name not like 'sqlite_%' order by type != 'table', rowid"
    )
    for kind, name, sql in source.execute(query).fetchall():
        sink.execute(sql)
        if kind == "table":
            found[name] = _trace_column(source, name)
    return found


def _trace_column(source: sqlite3.Connection, table: str) -> str | None:
    columns = [row[1] for row in source.execute(f'pragma table_info("{table}")')]
    if table in ("trace_info", "trace_tags", "trace_request_metadata"):
        return "request_id"
    return "trace_id" if "trace_id" in columns else None


def _copy_rows(source: sqlite3.Connection, sink: sqlite3.Connection, table: str) -> None:
    columns = _written_columns(source, table)
    rows = source.execute(f'select {_selected(columns)} from "{table}"').fetchall()
    sink.executemany(_insert(table, columns), rows)


def _trace_ids(source: sqlite3.Connection) -> Iterator[list[str]]:
    ids = [row[0] for row in source.execute("select request_id from trace_info")]
    for start in range(0, len(ids), _TRACES_IN_A_WRITE):
        yield ids[start : start + _TRACES_IN_A_WRITE]


def _rows_of(
    source: sqlite3.Connection, tables: dict[str, str], ids: Sequence[str]
) -> list[tuple[str, list[Any]]]:
    found: list[tuple[str, list[Any]]] = []
    marks = ",".join("?" * len(ids))
    # Parents before the rows that refer to them.
    for name in sorted(tables, key=lambda table: (table != "trace_info", table != "spans", table)):
        columns = _written_columns(source, name)
        query = f'select {_selected(columns)} from "{name}" where "{tables[name]}" in ({marks})'
        cursor = source.execute(query, ids)
        rows = cursor.fetchall()
        if rows:
            found.append((_insert(name, columns), rows))
    return found


def _written_columns(source: sqlite3.Connection, table: str) -> list[str]:
    """Names of the columns that are written, not computed."""
    info = source.execute(f'pragma table_xinfo("{table}")').fetchall()
    return [row[1] for row in info if row[6] == 0]


def _selected(columns: Sequence[str]) -> str:
    return ",".join(f'"{column}"' for column in columns)


def _insert(table: str, columns: Sequence[str]) -> str:
    marks = ",".join("?" * len(columns))
    return f'insert into "{table}" ({_selected(columns)}) values ({marks})'
