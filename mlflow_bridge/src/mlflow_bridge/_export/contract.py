# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Outcomes of one attempt to deliver spans, and the interface of a delivery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from opentelemetry.sdk.trace import ReadableSpan

from mlflow_bridge._process.rng import rng


@dataclass(frozen=True, slots=True)
class Sent:
    """The spans are stored in MLflow.

    Attributes:
        spans: Number of stored spans.
        rejected: Number of spans that MLflow refused in an otherwise accepted request.
        reason: Why MLflow refused spans, or a warning of the server; empty if there is none.
    """

    spans: int
    rejected: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Retry:
    """MLflow cannot take valid spans now, and they should be sent again.

    Sending a span again is safe: MLflow's write is an upsert by trace id and span id.

    Attributes:
        reason: The failure. Its part before the first ``": "`` is the kind of failure, which is
            the same for every failure of that kind.
        after: Seconds to wait, as requested by MLflow; ``None`` if the sender may choose.
        lasting: Whether the failure lasts until a user or operator fixes it, such as wrong
            credentials, address or experiment. The sender then spills the spans at once.
        about_spans: Whether the spans may be the reason after all, as after an HTTP 500 without an
            explanation. The delivery then tests the spans.
        refused: Whether MLflow has refused spans one by one, and taken no other span. The spans may
            be the reason, or nothing is taken at all: another span that is taken decides.
    """

    reason: str
    after: float | None = None
    lasting: bool = False
    about_spans: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """MLflow will never take these spans as they are.

    Attributes:
        reason: The failure, in the form of `Retry.reason`.
        divisible: Whether MLflow might take a part of these spans. False if the reason is the same
            for all spans, such as a deleted experiment that they name.
        too_large: Whether the size is the reason.
        spans_to_blame: Whether the spans are the reason. False if no span at all can be taken,
            because the exporter is closed or its settings are unusable. Spans on disk then stay
            there.
    """

    reason: str
    divisible: bool = True
    too_large: bool = False
    spans_to_blame: bool = True


Outcome = Sent | Retry | Rejected

NOT_STORED: Final = Rejected("its trace is not in MLflow", divisible=False)
"""The outcome for an annotation whose trace is not stored."""


@dataclass(frozen=True, slots=True)
class TraceSight:
    """The part of a trace that a destination has stored.

    Attributes:
        has_root: Whether the root is stored, so that the trace is not in progress.
        start_ms: The earliest start of a stored span, in milliseconds since 1970.
    """

    has_root: bool
    start_ms: int


def kind_of(reason: str) -> str:
    """The kind of failure in a reason: its part before the first ``": "``."""
    return reason.partition(": ")[0]


class SpanDelivery(Protocol):
    """Interface of an exporter that the sender uses. Called by the sender's thread only."""

    @property
    def destination_description(self) -> str:
        """Human-readable destination for log lines, without secrets. Read by any thread."""
        ...

    def warm_up(self) -> object:
        """Open the destination, which may take seconds. Not called if spans already wait."""
        ...

    def deliver(self, spans: Sequence[ReadableSpan]) -> Outcome:
        """Make one attempt at storing these spans, within the exporter's own time limits."""
        ...

    def close(self) -> object:
        """Free the resources of the exporter. Called once, after the last ``deliver``."""
        ...


class DetailsWriter(Protocol):
    """Writes metadata of stored traces, which may wait until no span waits."""

    @property
    def has_pending_details(self) -> bool:
        """Whether there is metadata to write."""
        ...

    def write_pending_details(self) -> bool:
        """Write the metadata of one trace, or one annotation. False if it has to wait."""
        ...

    @property
    def has_waiting_annotations(self) -> bool:
        """Whether an annotation waits apart from the spans."""
        ...

    def make_annotations_due(self) -> int:
        """Let no annotation wait for time, at the end; the number of annotations that wait."""
        ...

    def take_waiting_annotations(self) -> Sequence[ReadableSpan]:
        """Take out the annotations that are not written, at the end."""
        ...


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with jitter; all times are in seconds.

    The jitter spreads the attempts of processes that lost the same server at the same moment.
    """

    first: float = 0.5
    factor: float = 2.0
    longest: float = 30.0
    max_retry_after: float = 300.0
    """Longest delay that a server can request."""
    random: Callable[[], float] = rng.random
    """Returns numbers in [0, 1)."""

    def delay(self, attempt: int, retry_after: float | None = None) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 1).

        ``retry_after`` is the time that the server requested, for example in a Retry-After header.
        The delay is this time, but at most `max_retry_after`.
        """
        if retry_after is not None:
            return min(max(retry_after, 0.0), self.max_retry_after)
        # Without a limit for the exponent, an outage of weeks would overflow a float.
        delay = min(self.first * self.factor ** min(attempt - 1, 64), self.longest)
        return delay * (0.5 + self.random() / 2)
