# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The spool in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """The spool in numbers: what this process did, and what is in the directory now."""

    redelivered: int = 0
    """Spans from the spool that MLflow has confirmed, also those of other processes.

    A span counts again if its file had to be begun again.
    """
    dropped: int = 0
    """Spans lost from the spool: at its limits, unreadable, or refused by MLflow."""
    stored_own: int = 0
    """How many of the redelivered ones this process had spilled itself."""
    dropped_own: int = 0
    """How many of the dropped ones this process had spilled itself."""
    bytes: int = 0
    """Size of all files, also those of other processes."""
    oldest_seconds: float = 0.0
    """How long ago the oldest file was begun; 0 if there is none."""
    unjournaled: int = 0
    """Spans that write-ahead could not write down before they were sent."""
