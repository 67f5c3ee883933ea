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
"""The share of the exit time after which spans are only written to the spool."""

_EXTRA_SHARE: Final = 1.0
"""The share that is added for a spool that takes spans, but has not taken all of them in time:
they would be lost."""

_SHORTEST_SPOOLING_SECONDS: Final = 0.25
"""The shortest time for the spool, even if a shutdown is given no time."""

_ALONE_SHARE: Final = 0.1
_ALONE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class ExitTime:
    """The shares of the destination and of the spool, in seconds.

    The spool is written while the destination takes spans. So the disk and the size of the spans
    decide how many are safe at the end, and no estimate does.
    """

    delivery_seconds: float
    spooling_seconds: float
    """How long spans may be written to the spool after the delivery."""

    @classmethod
    def within(cls, allowed: float, asked: float | None) -> ExitTime:
        """Divide the allowed time, or the time that the caller asks for if that is less.

        Args:
            allowed: The longest that the destination may delay an exit.
            asked: The longest that the caller wants to wait; None if it sets no limit.
        """
        total = allowed if asked is None else min(allowed, asked)
        share = total * _SPOOLING_SHARE
        spooling = max(share + total * _EXTRA_SHARE, _SHORTEST_SPOOLING_SECONDS)
        return cls(total - share, spooling)

    @property
    def alone_seconds(self) -> float:
        """How long the destination is waited for without any write to the spool."""
        return min(self.delivery_seconds * _ALONE_SHARE, _ALONE_SECONDS)

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
