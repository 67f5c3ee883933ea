# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""CPU time of the calling thread and growth of the process's memory during a module call."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Final

from opentelemetry.instrumentation.dspy._calls.call import Attributes
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_MODULE_CPU_TIME,
    DSPY_MODULE_MEMORY_GROWTH,
)

_STATM: Final = "/proc/self/statm"
# The number of bytes in a page; 0 if the system does not tell the resident size this way.
_PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE") if sys.platform == "linux" else 0


def resident_size() -> int | None:
    """Bytes of this process that are in memory; None if the system does not tell."""
    if not _PAGE_SIZE:
        return None
    try:
        # A descriptor that stays open would belong to the parent process after a fork.
        file = os.open(_STATM, os.O_RDONLY)
    except OSError:
        return None
    try:
        return int(os.read(file, 128).split()[1]) * _PAGE_SIZE
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(file)


class ResourceUsage:
    """The usage since this object was made."""

    __slots__ = ("_cpu_ns", "_resident", "_thread")

    def __init__(self) -> None:
        self._resident = resident_size()
        self._thread = threading.get_ident()
        self._cpu_ns = time.thread_time_ns()

    def attributes(self, *, asynchronous: bool) -> Attributes:
        """The usage until now, as attributes.

        Args:
            asynchronous: Whether other calls may have run on this thread meanwhile; there is no CPU
                time then, and none if this is another thread.
        """
        attributes: Attributes = {}
        if not asynchronous and threading.get_ident() == self._thread:
            attributes[DSPY_MODULE_CPU_TIME] = (time.thread_time_ns() - self._cpu_ns) / 1e9
        now = resident_size() if self._resident is not None else None
        if now is not None and self._resident is not None:
            attributes[DSPY_MODULE_MEMORY_GROWTH] = now - self._resident
        return attributes
