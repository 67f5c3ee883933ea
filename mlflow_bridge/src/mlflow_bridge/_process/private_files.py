# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Directories and files that no other user can write to.

Files are written, emptied and delivered with the rights and credentials of this process. In a
directory of another user, a symbolic link would lead such a write to any file of this user, and a
forged file would be delivered. On a system without owners, such as Windows, nothing is checked that
the system cannot tell.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Final

_PRIVATE: Final = 0o700
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
# A FIFO would otherwise be waited for.
_SAFELY: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class NotPrivateError(PermissionError):
    """Another user can write to the directory or file; the message has the reason."""


def make_private_directory(path: Path) -> None:
    """Make a directory and its absent parents, each for this user alone. May be repeated.

    Raises:
        OSError: A directory cannot be made.
    """
    absent = list(takewhile(lambda directory: not directory.is_dir(), (path, *path.parents)))
    for directory in reversed(absent):
        # Another process may have made it meanwhile. pathlib gives this mode to the last one only.
        with suppress(FileExistsError):
            os.mkdir(directory, _PRIVATE)


def directory_problem(path: Path) -> str | None:
    """Why other users can change the files in a directory; None if they cannot, or it is absent."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return "it is a symbolic link" if stat.S_ISLNK(found.st_mode) else "it is not a directory"
    return _problem(found)


def file_problem(found: os.stat_result) -> str | None:
    """Why a file may not be this user's own; None if it is.

    Args:
        found: The result of `os.lstat` or `os.fstat`.
    """
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_nlink > 1:
        return "it has a second name (hard link)"
    return _problem(found)


def open_private_file(path: Path, flags: int) -> int:
    """Open an existing file that is this user's own, and return its descriptor.

    Raises:
        NotPrivateError: The file is a link or another user's, or other users can write to it.
        OSError: The file cannot be opened.
    """
    descriptor = os.open(path, flags | _SAFELY)
    problem = file_problem(os.fstat(descriptor))
    if problem is not None:
        os.close(descriptor)
        raise NotPrivateError(f"{path}: {problem}")
    return descriptor


def _problem(found: os.stat_result) -> str | None:
    user = getattr(os, "geteuid", None)
    if user is None:
        return None
    if found.st_uid != user():
        return f"it belongs to the user with the id {found.st_uid}, and this process has {user()}"
    if found.st_mode & _WRITABLE_BY_OTHERS:
        return f"other users can write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    return None
