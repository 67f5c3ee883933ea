# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Manual delivery of the spool of a machine or program that will not start again."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlflow_bridge._config.settings import MLflowDSPyConfig
from mlflow_bridge._delivery.spool.directory import Entry, files_in, spool_problem
from mlflow_bridge._delivery.spool.redelivery import Redelivery
from mlflow_bridge._delivery.spool.segment import locks_are_supported
from mlflow_bridge._delivery.spool.spool import Spool, directory_for
from mlflow_bridge._delivery.spool.undecided import UndecidedTraces
from mlflow_bridge._delivery.trace_filter import policy_of
from mlflow_bridge._export.contract import Backoff, Rejected
from mlflow_bridge._export.exporter import RETRY_SECONDS, MLflowSpanExporter
from mlflow_bridge.sampling.tail import TailSampling

if TYPE_CHECKING:
    from mlflow_bridge._delivery.status import SpoolStatus

_IN_USE: Final = (
    "the files belong to processes that are still running, or this user may not write to them"
)
_OF_A_LATER_RELEASE: Final = (
    "a later release of mlflow-bridge has written the files, and has to deliver them"
)
_TIME_IS_UP: Final = "the time is up"


@dataclass(frozen=True, slots=True)
class SpoolDelivery:
    """The result of `deliver_spool`."""

    directory: Path
    """Directory of the spool."""
    stored: int
    """Spans that MLflow has confirmed."""
    lost: int
    """Spans that MLflow refused for good, or that are in a torn line; the log says why."""
    left_files: int
    """Files that are still in the spool."""
    left_bytes: int
    """Size of these files."""
    reason: str
    """Why files are left; empty if no file is left."""
    filtered: int = 0
    """Spans of killed processes that were left out (setting: ``traces``)."""

    @property
    def complete(self) -> bool:
        """Whether the spool is empty and all its spans are in MLflow."""
        return not self.left_files and not self.lost


def deliver_spool(
    directory: str | os.PathLike[str] | None = None,
    *,
    config: MLflowDSPyConfig | None = None,
    timeout_seconds: float | None = None,
    patience_seconds: float = RETRY_SECONDS,
) -> SpoolDelivery:
    """Deliver the spans of a spool to MLflow, the oldest first, and remove them from the spool.

    It may be called while programs use the spool: each file is delivered by one process. An
    interrupted file is begun again next time; MLflow stores a span once even if it is sent twice.
    Files are not dropped for their age here.

    Args:
        directory: The directory of one destination, for example copied from another machine; by
            default the spool of the destination that ``config`` names.
        config: The settings for the delivery, even if the spans were meant for another destination;
            by default the settings of the environment.
        timeout_seconds: The longest that the delivery may take, apart from the attempt under way.
        patience_seconds: How long to go on while MLflow takes no span.

    Raises:
        ConfigurationError: A setting cannot be used.
        NotADirectoryError: The directory does not exist, or contains spools but is not itself a
            spool.
        PermissionError: Other users can change the files of the directory, and may have forged
            them.
        OSError: This platform has no file locks, without which files cannot be shared.
    """
    config = config or MLflowDSPyConfig()
    path = directory_for(config) if directory is None else _checked(Path(directory))
    if not locks_are_supported():
        raise OSError("this platform has no file locks")
    problem = spool_problem(path)
    if problem is not None:
        raise PermissionError(problem)
    if not files_in(path):
        return SpoolDelivery(path, 0, 0, 0, 0, "")
    spool = Spool(path, max_bytes=config.spool_max_bytes, max_age_seconds=float("inf"))
    exporter = MLflowSpanExporter(config=config)
    try:
        reason = _deliver(spool, exporter, config, timeout_seconds, patience_seconds)
    finally:
        exporter.close()
    return _summary(path, spool.status(), reason)


def _deliver(
    spool: Spool,
    exporter: MLflowSpanExporter,
    config: MLflowDSPyConfig,
    timeout_seconds: float | None,
    patience_seconds: float,
) -> str:
    """Deliver until the spool is empty. Returns the reason if the delivery ends earlier."""
    deadline = float("inf") if timeout_seconds is None else time.monotonic() + timeout_seconds
    obstacle = exporter.warm_up()
    if isinstance(obstacle, Rejected):
        return obstacle.reason
    redelivery = Redelivery(
        spool,
        exporter.deliver,
        batch_size=config.max_batch_size,
        backoff=Backoff(),
        undecided=_undecided_traces(spool, config),
    )
    patience = time.monotonic() + patience_seconds
    try:
        while time.monotonic() < deadline:
            if redelivery.deliver_next():
                if redelivery.has_stored:
                    patience = time.monotonic() + patience_seconds
                continue
            if not redelivery.obstacle:
                return ""
            next_at = time.monotonic() + redelivery.seconds_until_due()
            if next_at > patience:
                return redelivery.obstacle
            time.sleep(max(min(next_at, deadline) - time.monotonic(), 0.0))
        return redelivery.obstacle or _TIME_IS_UP
    finally:
        redelivery.close()


def _undecided_traces(spool: Spool, config: MLflowDSPyConfig) -> UndecidedTraces | None:
    only_genai, tail = config.traces == "genai", TailSampling.from_config(config)
    if not only_genai and tail is None:
        return None
    return UndecidedTraces(spool, policy_of(tail, only_genai=only_genai))


def _summary(path: Path, status: SpoolStatus, reason: str) -> SpoolDelivery:
    left = files_in(path)
    return SpoolDelivery(
        directory=path,
        stored=status.redelivered,
        lost=status.dropped,
        left_files=len(left),
        left_bytes=sum(entry.bytes for entry in left),
        reason=(reason or _why_left(left)) if left else "",
        filtered=status.filtered,
    )


def _why_left(left: Sequence[Entry]) -> str:
    return _IN_USE if any(entry.is_readable for entry in left) else _OF_A_LATER_RELEASE


def _checked(path: Path) -> Path:
    path = path.expanduser().absolute()
    if not path.is_dir():
        raise NotADirectoryError(f"there is no directory {path}")
    spools = sorted(below.name for below in path.iterdir() if files_in(below))
    if spools and not files_in(path):
        raise NotADirectoryError(
            f"{path} holds the spools of several destinations; name one of them: "
            + ", ".join(spools)
        )
    return path
