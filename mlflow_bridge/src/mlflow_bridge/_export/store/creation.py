# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Creation of a new SQLite store, which becomes visible only when it is complete.

MLflow creates its tables by dozens of migrations, which take seconds. If a process ends during the
migrations, it leaves a file that MLflow can never open.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
import time
from collections.abc import Generator
from typing import Any, Final

from mlflow_bridge._config.tracking_uri import sqlite_path

_ABANDONED_AFTER_SECONDS: Final = 600.0


def create_if_absent(uri: str, tracing_client: Any) -> None:
    """Create the store's file with all its tables if it does not exist; else do nothing.

    The tables are created in a temporary file in the same directory, which is renamed when it is
    complete. If several processes create the store, the file of the first process to finish stays.

    Args:
        uri: The URI of the store; only a SQLite file is created.
        tracing_client: MLflow's class ``TracingClient``, whose construction creates the tables.

    Raises:
        OSError: The directory cannot be written.
    """
    path = sqlite_path(uri)
    if path is None or os.path.exists(path):
        return
    _remove_abandoned(path)
    unfinished = f"{path}.{os.getpid()}.new"
    try:
        with _without_fsync(unfinished):
            store = tracing_client(f"sqlite:///{unfinished}").store
        # An open connection would still write to the file after it is renamed.
        store.engine.dispose()
        _sync(unfinished)
        _rename(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)


@contextlib.contextmanager
def _without_fsync(path: str) -> Generator[None, None, None]:
    """Turn fsync off for a SQLite file in this block.

    The migrations would wait for the disk hundreds of times, for a file that is not in use yet. A
    short program may have only the time at its exit to create its first store.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def turn_fsync_off(connection: Any, record: object) -> None:
        if _file_of(connection) == os.path.realpath(path):
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")

    # For all engines, because MLflow connects as soon as it has made its own engine.
    event.listen(Engine, "connect", turn_fsync_off)
    try:
        yield
    finally:
        event.remove(Engine, "connect", turn_fsync_off)


def _file_of(connection: Any) -> str | None:
    if not isinstance(connection, sqlite3.Connection):
        return None
    [(_, _, file)] = connection.execute("PRAGMA database_list").fetchall()
    return os.path.realpath(file)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(unfinished: str, path: str) -> None:
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return  # Another process has created an equal store just before.
    except (OSError, NotImplementedError):
        # A file system without hard links. Replacing is not safe if a second process does the same,
        # but in this short time it can only replace an empty store.
        if not os.path.exists(path):
            os.replace(unfinished, path)


def _remove_abandoned(path: str) -> None:
    """Remove temporary files of processes that were killed while they created the store."""
    for left in glob.glob(f"{glob.escape(path)}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - os.path.getmtime(left) > _ABANDONED_AFTER_SECONDS:
                os.unlink(left)
