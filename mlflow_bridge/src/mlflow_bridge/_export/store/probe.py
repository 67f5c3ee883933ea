# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of a SQL store before MLflow opens it, and of the identity of its file.

MLflow itself repeats a failed attempt for more than 100 seconds, and logs each attempt.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlflow_bridge._config.tracking_uri import sqlite_path
from mlflow_bridge._process.private_files import make_private_directory

FileIdentity = tuple[int, int]
"""Device number and inode number of a file."""


class StoreUnavailable(Exception):
    """The store cannot be opened now; the message has the reason."""


def probe(uri: str) -> None:
    """Connect to the store once.

    Raises:
        StoreUnavailable: A SQLite file cannot be written.
        sqlalchemy.exc.SQLAlchemyError: The database refuses the connection.
        ImportError: The database's driver is not installed.
    """
    path = sqlite_path(uri)
    if path is not None:
        _check_file(path)
        if not os.path.exists(path):
            return  # A connection would create an empty file, which looks like a store.
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    engine = sqlalchemy.create_engine(uri, poolclass=NullPool)
    with engine.connect() as connection:
        # SQLite opens the file only at the first statement.
        connection.execute(sqlalchemy.text("SELECT 1" if path is None else "PRAGMA schema_version"))


def file_identity(uri: str) -> FileIdentity | None:
    """The identity of a SQLite URI's file; ``None`` without a file or for another database."""
    path = sqlite_path(uri)
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _check_file(path: str) -> None:
    directory = os.path.dirname(path)
    try:
        make_private_directory(Path(directory))
    except OSError as error:
        raise StoreUnavailable(f"the directory {directory} cannot be created ({error})") from error
    # SQLite writes its journal next to the file.
    if not os.access(directory, os.W_OK | os.X_OK):
        raise StoreUnavailable(f"the directory {directory} is not writable")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise StoreUnavailable(f"the file {path} is not writable")
