# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What can come of one attempt to deliver spans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._process.rng import rng


@dataclass(frozen=True, slots=True)
class Sent:
    """The spans are stored in MLflow.

    Attributes:
        spans: How many of them.
        rejected: How many MLflow left out of an otherwise accepted request.
        reason: Why it left them out.
    """

    spans: int
    rejected: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """Nothing is wrong with the spans; MLflow cannot take them now.

    Sending a span again is safe: MLflow's write is an upsert by trace id and span id.

    Attributes:
        reason: What happened. The part before the first ``": "`` is the kind of the failure and
            is the same for every failure of that kind.
        after: Seconds that MLflow asked to wait, or ``None`` when the sender may choose.
        lasting: Whether it stays so until somebody does something about it: credentials, an
            address, an experiment. The spans are worth keeping, but not worth waiting for.
        about_spans: Whether the reason may lie in the spans after all, as it may behind a server's
            unexplained failure. The delivery finds out.
    """

    reason: str
    after: float | None = None
    lasting: bool = False
    about_spans: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """MLflow will never take these spans as they are.

    Attributes:
        reason: Why, in the form of `Retry.reason`.
        divisible: Whether a part of the spans might be taken on its own. Not so where the reason
            is the same for all of them, such as an experiment that they name and that is gone.
        too_large: Whether size is the reason.
        spans_to_blame: Whether other spans would fare better. Not so where nothing is taken at
            all, the exporter being closed or its settings unusable: what is on disk stays there.
    """

    reason: str
    divisible: bool = True
    too_large: bool = False
    spans_to_blame: bool = True


Outcome = Sent | Retry | Rejected


def kind_of(reason: str) -> str:
    """The kind of failure that a reason names: its part before the first ``": "``."""
    return reason.partition(": ")[0]


class SpanDelivery(Protocol):
    """What the sender needs of an exporter. Called by the sender's thread only."""

    @property
    def destination_description(self) -> str:
        """Where the spans go, in words for a log line; without secrets. Read by any thread."""
        ...

    def warm_up(self) -> object:
        """Open the destination, which may take a while. Left out if spans wait already."""
        ...

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """Make one attempt at storing these spans. Bounded in time by its own time-outs."""
        ...

    def close(self) -> object:
        """Free what the exporter holds. Called once, after the last ``deliver``."""
        ...


@dataclass(frozen=True)
class Backoff:
    """Exponential waiting times with jitter; all times in seconds.

    The jitter spreads the processes that lost the same server at the same moment.
    """

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    max_retry_after: float = 300.0
    """The most that is granted to a server that names the time itself."""
    random: Callable[[], float] = rng.random
    """Gives numbers in [0, 1)."""

    def delay(self, attempt: int, retry_after: float | None = None) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 1).

        ``retry_after`` is the time that the server asked for, such as a Retry-After header. The
        delay is never shorter, unless it exceeds `max_retry_after`.
        """
        if retry_after is not None:
            return min(max(retry_after, 0.0), self.max_retry_after)
        # The exponent is bounded: an outage of weeks would overflow a float otherwise.
        delay = min(self.first * self.factor ** min(attempt - 1, 64), self.longest)
        return delay * (0.5 + self.random() / 2)
