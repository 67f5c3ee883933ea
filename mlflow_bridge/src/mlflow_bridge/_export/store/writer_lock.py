# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One writer at a time for a SQLite file, among the processes that deliver to it.

SQLite itself makes writers wait for each other, but not always: of two transactions that have read
and now want to write, one gets "database is locked" at once, which MLflow logs as an error.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from mlflow_bridge._config.tracking_uri import sqlite_path
from mlflow_bridge._process.forks import call_in_child

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextmanager
def writer_lock(uri: str) -> Generator[bool, None, None]:
    """Whether no other process is at its turn in the block; it is not waited for.

    The lock (flock) is on the directory of the file. On the file itself it would, when given back,
    take SQLite's own locks along. Where there is no such lock everybody has a turn at any time.
    """
    path = sqlite_path(uri)
    descriptor = None if path is None or fcntl is None else _opened(os.path.dirname(path))
    if descriptor is None:
        yield True
        return
    _open.add(descriptor)
    try:
        yield _locked(descriptor)
    finally:
        # In a child that was forked in between, it is closed already, and may be another file.
        if descriptor in _open:
            _open.remove(descriptor)
            os.close(descriptor)


_open: Final[set[int]] = set()


def _leave_to_parent() -> None:
    """In a forked child: the two share one lock, which would last for as long as the child."""
    while _open:
        os.close(_open.pop())


call_in_child(_leave_to_parent)


def _opened(directory: str) -> int | None:
    try:
        return os.open(directory, os.O_RDONLY)
    except OSError:  # It is not made yet, for instance.
        return None


def _locked(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # A file system without locks.
        return True
    return True
