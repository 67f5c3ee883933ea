# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One file of the spool, and its ownership.

The owner holds an advisory lock (flock) on the file for as long as it has the file open. The kernel
releases the lock when the owner ends, however it ends. So a file that can be locked has no owner,
and the process that locks it becomes its owner. A process id would not suffice, because the system
may use it again.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from mlflow_bridge._process.private_files import open_private_file
from mlflow_bridge._spans.otlp_json.encoder import SPAN_MARK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SUFFIX: Final = ".jsonl"
NEW_SUFFIX: Final = ".new"
FORMAT_VERSION: Final = 1
"""Version of the format of a file: OTLP JSON lines, with one ``TracesData`` in each line. It is in
the name of the file and not in its first line, so that other programs can read the file as OTLP."""
_VERSIONED_SUFFIX: Final = f".v{FORMAT_VERSION}{SUFFIX}"
_UNDECIDED: Final = ".undecided"
"""In the name of a file that was written before the filter of traces had decided on its spans."""
_PRIVATE: Final = 0o600
_CHUNK: Final = 1_048_576


_VERSION_IN_NAME: Final = re.compile(r"\.v(\d{1,9})\.jsonl$")


def format_version_of(path: Path) -> int:
    """The format version in the name of a file; 0 for a file from before the versions."""
    found = _VERSION_IN_NAME.search(path.name)
    return int(found.group(1)) if found else 0


def is_undecided(path: Path) -> bool:
    """Whether a file was written before the filter of traces had decided on its spans."""
    return f"{_UNDECIDED}." in path.name


def locks_are_supported() -> bool:
    """Whether this platform has file locks, which ownership of a file requires."""
    return fcntl is not None


class Segment:
    """A file that this process owns. Not thread-safe."""

    def __init__(self, path: Path, descriptor: int, *, own: bool) -> None:
        self.path = path
        self.own = own
        """Whether this process has written the file."""
        self.size = 0
        self.spans = 0
        """Number of spans that this process has written; not counted for an adopted file."""
        self.noted = 0
        """Number of spans, from the first on, that are counted as redelivered, lost or filtered."""
        self.outstanding = 0
        """Spans of a write-ahead file that are not settled."""
        self.wanted: set[int] = set()
        """Traces that this process has noted as wanted in an undecided file."""
        self.torn = False
        """Whether the file ends in the middle of a line, so that no line may be added."""
        self._descriptor = descriptor

    @classmethod
    def create(cls, directory: Path, *, undecided: bool = False) -> Segment:
        """Create an empty file. Its name sorts after the names of older files.

        Args:
            directory: The directory.
            undecided: Whether the filter of traces has not decided on the spans yet.

        Raises:
            OSError: The file cannot be created.
        """
        name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        suffix = _UNDECIDED + _VERSIONED_SUFFIX if undecided else _VERSIONED_SUFFIX
        new, path = directory / (name + NEW_SUFFIX), directory / (name + suffix)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND
        descriptor = os.open(new, flags, _PRIVATE)
        try:
            # Locked before it has its final name: another process would remove an empty file
            # without an owner.
            _lock(descriptor)
            new.rename(path)
        except BaseException:
            os.close(descriptor)
            with suppress(OSError):
                new.unlink()
            raise
        return cls(path, descriptor, own=True)

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """Adopt the file of a dead process.

        Returns:
            The file; None if it has an owner, is removed, or is not this user's own.
        """
        try:
            descriptor = open_private_file(path, os.O_RDWR | os.O_APPEND)
        except OSError:
            return None
        try:
            _lock(descriptor)
            # The previous owner may have removed the file between the two calls.
            found = os.fstat(descriptor)
            if not found.st_nlink:
                raise FileNotFoundError(path)
        except OSError:
            os.close(descriptor)
            return None
        segment = cls(path, descriptor, own=False)
        segment.size = found.st_size
        return segment

    def append(self, line: bytes, spans: int) -> None:
        """Write the whole line, or no part of it.

        Raises:
            OSError: The line cannot be written, for instance to a full disk.
        """
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(f"{written} of {len(line)} bytes written")
        except OSError:
            self.torn = True
            os.ftruncate(self._descriptor, self.size)
            self.torn = False
            raise
        self.size += len(line)
        self.spans += spans

    def sync(self) -> None:
        """Flush the file to the disk (fsync)."""
        os.fsync(self._descriptor)

    def empty(self) -> None:
        """Remove all lines."""
        os.ftruncate(self._descriptor, 0)
        self.size = self.spans = 0
        self.wanted = set()

    @property
    def is_undecided(self) -> bool:
        return is_undecided(self.path)

    def become_decided(self) -> None:
        """Rename an undecided file, whose spans are to be delivered.

        Raises:
            OSError: The file cannot be renamed.
        """
        decided = self.path.with_name(self.path.name.replace(f"{_UNDECIDED}.", ".", 1))
        self.path.rename(decided)
        self.path = decided

    def count_spans(self) -> int:
        """Count the spans in the file; 0 if the file cannot be read."""
        if self.own:
            return self.spans
        with suppress(OSError), self.open_for_reading() as file:
            return _count_marks(file)
        return 0

    @property
    def is_removed(self) -> bool:
        """Whether the file was removed. It can be read as long as it is open."""
        return self._descriptor >= 0 and not os.fstat(self._descriptor).st_nlink

    def open_for_reading(self) -> BinaryIO:
        """Open the file for reading from its beginning.

        Raises:
            OSError: The file cannot be read.
        """
        try:
            descriptor = open_private_file(self.path, os.O_RDONLY)
            if not os.path.samestat(os.fstat(descriptor), os.fstat(self._descriptor)):
                os.close(descriptor)
                raise FileNotFoundError(f"another file has the name {self.path}")
            return os.fdopen(descriptor, "rb")
        except FileNotFoundError:
            # Only if the file is removed: a duplicate holds the lock, too, also in a forked child.
            file = os.fdopen(os.dup(self._descriptor), "rb")
            file.seek(0)
            return file

    def delete(self) -> None:
        """Remove the file. A process that locks it later finds that it is removed.

        Raises:
            OSError: The file can be neither removed nor emptied.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            # Delivered spans must not be delivered again and again.
            os.ftruncate(self._descriptor, 0)
        finally:
            self.close()

    def close(self) -> None:
        """Release the file to the next process that locks it. May be repeated.

        In a forked child, the parent keeps the file: the two processes share one lock, which is
        released only when both have closed the file.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is None:
        raise OSError("this platform has no file locks")
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _count_marks(file: BinaryIO) -> int:
    count, rest = 0, b""
    while chunk := file.read(_CHUNK):
        text = rest + chunk
        count += text.count(SPAN_MARK)
        # A mark may lie across two chunks; the rest is too short to hold a whole mark.
        rest = text[-(len(SPAN_MARK) - 1) :]
    return count
