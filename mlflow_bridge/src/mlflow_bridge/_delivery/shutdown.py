# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The division of the exit time between delivery and spool, and the summary in the log."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlflow_bridge._delivery.status import DeliveryStatus

_SPOOLING_SHARE: Final = 0.1
"""The share for the spool if no spans wait for it; the rest is for delivery."""

_SPOOLING_SECONDS: Final = 0.00004
"""The time to write a span of some kB to the spool on a busy machine."""

_LARGEST_SPOOLING_SHARE: Final = 0.75
"""The largest share for the spool, if more spans wait than MLflow could take in that time."""

_SHORTEST_SPOOLING_SECONDS: Final = 0.25
"""The shortest time for the spool, even if a shutdown is given no time."""


@dataclass(frozen=True)
class ExitTime:
    """The shares of the destination and of the spool, in seconds."""

    delivery_seconds: float
    spooling_seconds: float

    @classmethod
    def within(cls, allowed: float, asked: float | None, *, queued: int) -> ExitTime:
        """Divide the allowed time, or the time that the caller asks for if that is less.

        Args:
            allowed: The longest that an exit may be delayed.
            asked: The longest that the caller wants to wait; None if it sets no limit.
            queued: Number of spans that may have to be spooled; 0 without a spool.
        """
        total = allowed if asked is None else min(allowed, asked)
        share = total * _SPOOLING_SHARE
        if not queued:
            return cls(total - share, max(share, _SHORTEST_SPOOLING_SECONDS))
        usual = min(share + queued * _SPOOLING_SECONDS, total * _LARGEST_SPOOLING_SHARE)
        spooling = max(usual, _SHORTEST_SPOOLING_SECONDS)
        return cls(max(total - spooling, 0.0), spooling)

    def delivery_until(self, limit: float | None) -> float:
        """The `time.monotonic` at which delivery ends, if it begins now; at most ``limit``."""
        until = time.monotonic() + self.delivery_seconds
        return until if limit is None else min(until, limit)


def seconds_until(deadline: float) -> float:
    """The time left until this `time.monotonic`; never below 0."""
    return max(deadline - time.monotonic(), 0.0)


def exit_summary(
    status: DeliveryStatus, *, spool: Path | None, known: bool, exit_timeout: float | None
) -> str | None:
    """The log line about missing spans; None if all spans have arrived.

    Args:
        status: The counters at the end.
        spool: The directory of the spool; None without a spool.
        known: Whether the log already says why spans did not arrive.
        exit_timeout: The longest wait for the destination, in seconds; None if there was no wait.
    """
    if status.missing == 0:
        return None
    place = "for later"
    if spool is not None:
        command = "mlflow-bridge spool deliver"
        place = f"in {spool}, delivered by the next process (or by: {command})"
    reason = "the warnings before this one say why"
    if not known:
        reason = f"last error: {status.last_error or 'not delivered in time'}"
    if not known and exit_timeout is not None:
        reason += f" (settings: MLFLOW_TRACKING_URI, exit_timeout_seconds={exit_timeout:g})"
    lost = status.missing - status.rejected - status.kept
    return (
        f"{status.missing} of {status.missing + status.stored + status.recovered} spans are not "
        f"in {status.destination}: {lost} lost, {status.rejected} refused, {status.kept} kept "
        f"{place}; {reason}."
    )
