# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Writer lock of a SQLite file for the processes that deliver to it.

SQLite's own lock does not suffice. If two transactions have read and then write, SQLite refuses one
of them at once with "database is locked", which MLflow logs as an error.
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
    """Try to lock a SQLite file for this block, without waiting.

    Yields True if this process has the lock, or if the system or database has no such lock; False
    if another process has it. The lock (flock) is on the directory, since closing the SQLite file
    itself would release SQLite's own locks.
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
        # A child that was forked in this block has closed it, and may have reused its number.
        if descriptor in _open:
            _open.remove(descriptor)
            os.close(descriptor)


_open: Final[set[int]] = set()


def _leave_to_parent() -> None:
    """Close the parent's lock in a forked child, since the child would otherwise prolong it."""
    while _open:
        os.close(_open.pop())


call_in_child(_leave_to_parent)


def _opened(directory: str) -> int | None:
    try:
        return os.open(directory, os.O_RDONLY)
    except OSError:  # The directory may not exist yet.
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
