# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What is said at the end of a process when something is not in MLflow."""

from __future__ import annotations

from pathlib import Path

from mlflow_bridge._delivery.status import DeliveryStatus


def exit_summary(
    status: DeliveryStatus, *, spool: Path | None, known: bool, exit_timeout: float | None
) -> str | None:
    """One line for the log, or None if everything has arrived.

    Args:
        status: The numbers at the end.
        spool: Where spans are that are kept, if there is a spool.
        known: Whether the log already says why spans did not arrive.
        exit_timeout: The longest that the destination was waited for, in seconds; None if there
            was nothing to wait for.
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
