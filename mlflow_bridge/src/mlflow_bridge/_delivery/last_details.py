# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata and annotations of stored traces that still wait when the last span is delivered."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._export.contract import DetailsWriter

_logger = logging.getLogger(__name__)

_SECONDS: Final = 2.0
"""Longest time for both after the last span."""

_ROUNDS: Final = 3
"""Attempts at an annotation that MLflow refuses."""


def write_last_details(
    details: DetailsWriter,
    *,
    may_write: Callable[[], bool],
    keep: Callable[[Sequence[ReadableSpan]], bool] | None,
) -> None:
    """Write what waits, for at most two seconds; the rest of the annotations goes to the disk.

    Args:
        details: Writes it.
        may_write: Whether it may be written now.
        keep: Takes annotations to the disk, and returns whether it has; None without a disk.
    """
    until = time.monotonic() + _SECONDS
    for _ in range(_ROUNDS):
        if not may_write() or time.monotonic() >= until:
            break
        # A refusal a moment ago must not lose an annotation.
        details.make_annotations_due()
        while may_write() and time.monotonic() < until and details.write_pending_details():
            pass
    left = details.take_waiting_annotations()
    if left and (keep is None or not keep(left)):
        _logger.warning("%d assessments or tags of traces are lost at the exit.", len(left))
