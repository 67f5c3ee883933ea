# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The directory of the spool: its files, their owners, and its limits."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlflow_bridge._delivery.spool.segment import (
    FORMAT_VERSION,
    NEW_SUFFIX,
    SUFFIX,
    Segment,
    format_version_of,
    is_undecided,
)
from mlflow_bridge._process.outside_text import outside_text
from mlflow_bridge._process.private_files import (
    NotPrivateError,
    directory_problem,
    file_problem,
    make_private_directory,
    open_private_file,
)

_logger = logging.getLogger(__name__)

_REMEDY: Final = "chown it to this user and chmod go-w it, or choose another spool_directory"
_DESTINATION: Final = "destination.txt"
_MAX_DESTINATION: Final = 1000
_ABANDONED_SECONDS: Final = 3600.0
_ASIDE: Final = ".unreadable"
"""Added to the name of a file that cannot be delivered."""


class SpoolFullError(OSError):
    """The spool has no room, and no file that may be dropped."""


class LineTooLargeError(ValueError):
    """The line would not even fit into an empty spool."""


@dataclass(frozen=True)
class Entry:
    """A file in the spool, as the directory lists it."""

    path: Path
    bytes: int
    modified: float
    """Time of the newest span, in seconds since the epoch."""

    @property
    def is_readable(self) -> bool:
        """Whether this release knows the format of the file, which may be of a later release."""
        return format_version_of(self.path) <= FORMAT_VERSION

    @property
    def is_undecided(self) -> bool:
        """Whether the file was written before the filter of traces had decided on its spans."""
        return is_undecided(self.path)

    @property
    def begun(self) -> float:
        """Time at which the file was made, from its name, in seconds since the epoch."""
        nanoseconds = self.path.name.partition("-")[0]
        return int(nanoseconds) / 1e9 if nanoseconds.isdecimal() else self.modified


def default_directory() -> Path:
    """The directory of spools in the user's state directory (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification says that a relative path is to be ignored.
    state = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return state / "mlflow-bridge" / "spool"


def destination_key(description: str) -> str:
    """A name for the directory of one destination, from its description without secrets."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", description).strip("-")[:40]
    return f"{words}-{hashlib.sha256(description.encode()).hexdigest()[:12]}"


def files_in(path: Path) -> list[Entry]:
    """The files of a spool that are not empty, the oldest first; [] if there is no directory."""
    return [entry for entry in _entries(path) if entry.bytes]


def files_set_aside(path: Path) -> list[Entry]:
    """The files of a spool that could not be delivered, the oldest first."""
    return _entries(path, SUFFIX + _ASIDE)


def destination_of(path: Path) -> str:
    """Description of the destination of a spool directory in one line; empty if it is not known."""
    try:
        descriptor = open_private_file(path / _DESTINATION, os.O_RDONLY)
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as file:
            return outside_text(file.read(_MAX_DESTINATION + 1).strip(), limit=_MAX_DESTINATION)
    except OSError:
        return ""


def spool_problem(path: Path) -> str | None:
    """Why a directory is not used as a spool, and what to do; None if it is used, or absent."""
    problem = directory_problem(path)
    if problem is None:
        return None
    return f"{path}: {problem}. Only its owner may use a spool ({_REMEDY})"


def _entries(
    path: Path, suffix: str = SUFFIX, on_foreign: Callable[[Path, str], None] | None = None
) -> list[Entry]:
    """The files of a spool that are this user's own, the oldest first.

    Args:
        path: The directory of the spool.
        suffix: How the names of the files end.
        on_foreign: Called for every other file, with the reason.
    """
    if directory_problem(path) is not None:
        return []
    try:
        with os.scandir(path) as found:
            names = sorted(item.name for item in found if item.name.endswith(suffix))
    except OSError:
        return []
    entries = [_entry(path / name, on_foreign) for name in names]
    return [entry for entry in entries if entry is not None]


def _entry(path: Path, on_foreign: Callable[[Path, str], None] | None = None) -> Entry | None:
    try:
        found = path.lstat()
    except OSError:  # Removed meanwhile.
        return None
    problem = file_problem(found)
    if problem is not None:
        if on_foreign is not None:
            on_foreign(path, problem)
        return None
    return Entry(path, found.st_size, found.st_mtime)


class SpoolDirectory:
    """The files of all processes that spool for one destination. Any thread may call it.

    Args:
        path: The directory; made with the first file.
        destination: Human-readable destination; written to ``destination.txt``.
        max_bytes: The most that all files together should take.
        max_age_seconds: Files whose newest span is older are dropped.
        on_drop: Called for every file that is dropped, with the reason and the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        destination: str = "",
        max_bytes: int,
        max_age_seconds: float,
        on_drop: Callable[[str, Segment], None],
    ) -> None:
        self.path = path
        self._destination = destination
        self._max_bytes = max_bytes
        self._max_age = max_age_seconds
        self._on_drop = on_drop
        self._has_told_of_unreadable = False
        self._has_told_of_foreign = False
        self._aside: set[Path] = set()
        self._made: set[Path] = set()

    def has_made(self, path: Path) -> bool:
        """Whether this process has made the file, which it may have released since."""
        return path in self._made

    def after_fork(self) -> None:
        """Forget which files the parent has made."""
        self._made = set()

    def entries(self) -> list[Entry]:
        """All files, the oldest first; [] if the directory does not exist or cannot be read."""
        return _entries(self.path, on_foreign=self._tell_of_foreign)

    def _tell_of_foreign(self, path: Path, problem: str) -> None:
        if self._has_told_of_foreign:
            return
        self._has_told_of_foreign = True
        _logger.warning(
            "The spool file %s is left alone: %s. Files like it may be forged; if they are not, "
            "make them yours (%s).",
            outside_text(path),
            problem,
            _REMEDY,
        )

    def create(
        self,
        needed: int,
        droppable: Callable[[Path], Segment | None] | None,
        *,
        undecided: bool = False,
    ) -> Segment:
        """Create a file; drop the oldest files first if there is no room for it.

        Args:
            needed: Number of bytes that will be written.
            droppable: Returns a file of this process if the file may be dropped, else None. If this
                is None, no file is dropped.
            undecided: As in `Segment.create`.

        Raises:
            LineTooLargeError: The bytes exceed the limit of the spool; no file is dropped.
            SpoolFullError: There is no room even after files were dropped.
            OSError: The directory or the file cannot be made.
        """
        if needed > self._max_bytes:
            raise LineTooLargeError(
                f"it has {needed} bytes, and the spool takes {self._max_bytes} "
                "(setting: spool_max_bytes)"
            )
        self._make()
        entries = self.entries()
        total = sum(entry.bytes for entry in entries)
        for entry in entries:
            if total + needed <= self._max_bytes:
                break
            if not entry.is_readable or droppable is None:
                continue
            # Neither a file that a living process writes to, nor a file that is being delivered.
            segment = droppable(entry.path) or Segment.adopt(entry.path)
            if segment is not None:
                total -= entry.bytes
                self._drop("there is no room (setting: spool_max_bytes)", segment)
        if total + needed > self._max_bytes:
            raise SpoolFullError(
                f"{total} bytes are in it, of {self._max_bytes} (setting: spool_max_bytes)"
            )
        segment = Segment.create(self.path, undecided=undecided)
        self._made.add(segment.path)
        return segment

    def _make(self) -> None:
        make_private_directory(self.path)
        problem = spool_problem(self.path)
        if problem is not None:
            raise NotPrivateError(problem)
        file = self.path / _DESTINATION
        if not self._destination or os.path.lexists(file):
            return
        with suppress(FileExistsError):  # Another process has just written it.
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as note:
                note.write(f"{self._destination}\n".encode("utf-8", "replace"))

    def adopt_oldest(
        self, begun_after: float = 0.0, *, but: Set[Path] = frozenset()
    ) -> Segment | None:
        """Adopt the oldest file that has no owner. Expired files are dropped, empty files removed.

        Files of a later release are left to that release.

        Args:
            begun_after: Older files are left alone; in seconds since the epoch.
            but: Files that are left alone, too.
        """
        for entry in self.entries():
            if entry.begun < begun_after or entry.path in self._aside or entry.path in but:
                continue
            if not entry.is_readable:
                self._tell_of_unreadable(entry)
                continue
            segment = Segment.adopt(entry.path)
            if segment is None:
                continue
            if not segment.size:
                segment.delete()
            elif not self.drop_if_expired(segment):
                return segment
        self._remove_unfinished()
        return None

    def _tell_of_unreadable(self, entry: Entry) -> None:
        if self._has_told_of_unreadable:
            return
        self._has_told_of_unreadable = True
        _logger.warning(
            "The spool file %s has version %d of the format, and this release knows %d: files like "
            "it are left to a later release of mlflow-bridge.",
            entry.path,
            format_version_of(entry.path),
            FORMAT_VERSION,
        )

    def drop_if_expired(self, segment: Segment) -> bool:
        """Drop a file that this process owns, if its newest span is too old."""
        entry = _entry(segment.path)
        if entry is None or time.time() - entry.modified <= self._max_age:
            return False
        self._drop("they are too old (setting: spool_max_age_seconds)", segment)
        return True

    def restore(self, segment: Segment, droppable: Callable[[Path], Segment | None] | None) -> None:
        """Write a removed file again. If that fails, its spans count as dropped."""
        try:
            copy = self.create(segment.size, droppable, undecided=segment.is_undecided)
            with segment.open_for_reading() as file:
                copy.append(file.read(), segment.spans)
            copy.close()
        except (OSError, LineTooLargeError) as error:
            self._on_drop(f"their file was removed, and could not be restored ({error})", segment)

    def set_aside(self, segment: Segment) -> None:
        """Release a file that cannot be delivered, and rename it so that no process acquires it."""
        # The name may stay as it is, if the disk is read-only for instance.
        self._aside.add(segment.path)
        try:
            if not segment.is_removed:
                segment.path.rename(segment.path.with_name(segment.path.name + _ASIDE))
        finally:
            segment.close()

    def _drop(self, why: str, segment: Segment) -> None:
        self._on_drop(why, segment)
        segment.delete()

    def _remove_unfinished(self) -> None:
        """Remove the files of processes that died while they made a file."""
        for path in self.path.glob("*" + NEW_SUFFIX):
            entry = _entry(path)
            if entry is not None and time.time() - entry.modified > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
        for entry in files_set_aside(self.path):
            if time.time() - entry.modified > self._max_age:
                _logger.warning(
                    "The file %s, which could not be delivered, is removed: it is too old "
                    "(setting: spool_max_age_seconds).",
                    entry.path,
                )
                entry.path.unlink(missing_ok=True)
