# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A new SQLite store that is either complete or not there.

MLflow creates its tables by dozens of migrations, which take seconds. A process that ends in the
middle of them leaves a file that no MLflow can ever open again.
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

    The tables are made in another file beside it, which gets its name when it is complete. Where
    several processes do so at once, the first one to finish wins.

    Args:
        uri: The store; only a SQLite file is created.
        tracing_client: MLflow's ``TracingClient``, which creates the tables of the URI it is given.

    Raises:
        OSError: The directory cannot be written.
    """
    path = sqlite_path(uri)
    if path is None or os.path.exists(path):
        return
    _remove_abandoned(path)
    unfinished = f"{path}.{os.getpid()}.new"
    try:
        with _not_waiting_for_the_disk(unfinished):
            store = tracing_client(f"sqlite:///{unfinished}").store
        # A connection that stays open would write to the file under its other name.
        store.engine.dispose()
        _sync(unfinished)
        _give_name(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)


@contextlib.contextmanager
def _not_waiting_for_the_disk(path: str) -> Generator[None, None, None]:
    """Have SQLite not wait, hundreds of times, for a disk to keep a file that nobody uses yet.

    A short program has no more than the time at its exit to make its first store.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def hurry(connection: Any, record: object) -> None:
        if _file_of(connection) == os.path.realpath(path):
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")

    # MLflow makes its engine and uses it at once: there is no time to listen to that one only.
    event.listen(Engine, "connect", hurry)
    try:
        yield
    finally:
        event.remove(Engine, "connect", hurry)


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


def _give_name(unfinished: str, path: str) -> None:
    try:
        os.link(unfinished, path)
    except FileExistsError:
        return  # Another process was faster; its store is as good.
    except (OSError, NotImplementedError):
        # A file system without hard links. Replacing is not safe against a second process, but an
        # empty store is all that could be replaced within this moment.
        if not os.path.exists(path):
            os.replace(unfinished, path)


def _remove_abandoned(path: str) -> None:
    """Remove what processes left behind that were killed while they created the store."""
    for left in glob.glob(f"{glob.escape(path)}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - os.path.getmtime(left) > _ABANDONED_AFTER_SECONDS:
                os.unlink(left)
