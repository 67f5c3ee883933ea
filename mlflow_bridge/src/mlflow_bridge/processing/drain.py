# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Waits for spans that other threads are ending while the processor is shut down."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_LATE_SECONDS: Final = 0.1
"""The longest wait. It takes microseconds to queue a span, but a thread that does so may have to
wait for the interpreter, or for the disk with write-ahead; and it never goes on if it is the one
that waits here, in a signal handler that interrupted it."""

_LOOK_SECONDS: Final = 0.001


def drain(
    flush: Callable[[], object], expected: Callable[[], int], *, end: Callable[[], None]
) -> None:
    """Move on what is there and what is just coming, so that nothing is left and nothing comes.

    Args:
        flush: Moves the spans on that are there.
        expected: How many there are and will be.
        end: Sends elsewhere whoever comes from now on.
    """
    _drain(flush, expected)
    end()
    # Also what had passed by before.
    _drain(flush, expected)


def _drain(flush: Callable[[], object], expected: Callable[[], int]) -> None:
    until = time.monotonic() + _LATE_SECONDS
    flush()
    while expected() > 0 and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        flush()
