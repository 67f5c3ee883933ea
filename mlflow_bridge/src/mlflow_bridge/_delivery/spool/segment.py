# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One file of the spool, and who owns it.

The owner holds an advisory lock (flock) on the file for as long as it has it open. The kernel gives
the lock back when the owner dies, however it dies; so a file that can be locked belongs to nobody,
and whoever locks it is its next owner. A process id would say less: it may be used again.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from mlflow_bridge._spans.otlp_json.encoder import SPAN_MARK

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

SUFFIX: Final = ".jsonl"
NEW_SUFFIX: Final = ".new"
FORMAT_VERSION: Final = 1
"""Of what is in a file: OTLP JSON lines, a ``TracesData`` each. Stands in the name of the file and
not in its first line, so that other programs can read it as what it is."""
_VERSIONED_SUFFIX: Final = f".v{FORMAT_VERSION}{SUFFIX}"
_PRIVATE: Final = 0o600
_CHUNK: Final = 1_048_576


_VERSION_IN_NAME: Final = re.compile(r"\.v(\d{1,9})\.jsonl$")


def format_version_of(path: Path) -> int:
    """The version of the format of a file by its name; 0 if it is older than the versions."""
    found = _VERSION_IN_NAME.search(path.name)
    return int(found.group(1)) if found else 0


def locks_are_supported() -> bool:
    """Whether this platform has the locks without which no file can be owned."""
    return fcntl is not None


class Segment:
    """A file that this process owns. Not thread-safe."""

    def __init__(self, path: Path, descriptor: int, *, own: bool) -> None:
        self.path = path
        self.own = own
        """Whether this process has written it."""
        self.size = 0
        self.spans = 0
        """How many were written; of a file of another process, not known."""
        self.outstanding = 0
        """Spans of a write-ahead file that are not settled."""
        self.torn = False
        """Whether it ends in the middle of a line, so that nothing may be added."""
        self._descriptor = descriptor

    @classmethod
    def create(cls, directory: Path) -> Segment:
        """A new, empty file. Its name sorts after those of older files.

        Raises:
            OSError: It cannot be made.
        """
        name = f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}"
        new, path = directory / (name + NEW_SUFFIX), directory / (name + _VERSIONED_SUFFIX)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND
        descriptor = os.open(new, flags, _PRIVATE)
        try:
            # Under its final name it can be seen; an empty file without an owner would be removed.
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
        """The file of a process that is no more, or None if it has an owner or is gone."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except OSError:
            return None
        try:
            _lock(descriptor)
            # Whoever had it before may have removed it between the two calls.
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
        """Write the line, all of it or nothing.

        Raises:
            OSError: There is no room for it, for instance.
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
        """Have the disk keep what was written."""
        os.fsync(self._descriptor)

    def empty(self) -> None:
        """Remove what was written."""
        os.ftruncate(self._descriptor, 0)
        self.size = self.spans = 0

    def count_spans(self) -> int:
        """How many spans are in the file."""
        if self.own:
            return self.spans
        with suppress(OSError), self.path.open("rb") as file:
            return _count_marks(file)
        return 0

    @property
    def is_removed(self) -> bool:
        """Whether somebody has removed the file. As long as it is open, it can be read."""
        return self._descriptor >= 0 and not os.fstat(self._descriptor).st_nlink

    def open_for_reading(self) -> BinaryIO:
        """The file from its beginning.

        Raises:
            OSError: It cannot be read.
        """
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            # Not in any case: what is opened so has the lock as well, also in a forked child.
            file = os.fdopen(os.dup(self._descriptor), "rb")
            file.seek(0)
            return file

    def delete(self) -> None:
        """Remove the file. Whoever tries to lock it from now on finds it gone.

        Raises:
            OSError: It can be neither removed nor emptied.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError:
            # What is delivered must not be delivered again and again.
            os.ftruncate(self._descriptor, 0)
        finally:
            self.close()

    def close(self) -> None:
        """Give the file up to whoever locks it next. May be repeated.

        In a forked child, the parent keeps it: the two share one lock, which only the last of them
        to close the file gives back.
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
        # A mark may lie across two chunks; what is kept is too short to hold a whole one.
        rest = text[-(len(SPAN_MARK) - 1) :]
    return count
