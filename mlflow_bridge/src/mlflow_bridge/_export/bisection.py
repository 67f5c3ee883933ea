# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One attempt at storing batches: a refused batch is bisected until the bad span is isolated.

A server with a broken database may refuse good spans with the same response as bad spans. So a
span is given up only if the destination has just accepted another span: a span of the same attempt,
or a probe, which is a span that the destination stored before. Sending the probe again changes
nothing in MLflow. Without such a span, the number of attempts decides nothing: a database that is
read-only for an hour refuses each of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent

# A probe may be sent many times, so it has to be small.
_MAX_PROBE_BYTES: Final = 16_384
# If this many spans are refused one by one and none is accepted, the spans are not the reason.
_ENOUGH_SUSPECTS: Final = 8
# After this number of failed attempts at the same spans, an unexplained failure is examined.
_ATTEMPTS_TO_EXAMINE: Final = 3


class DestinationHistory:
    """Results of earlier attempts at one destination. Used by one thread at a time."""

    def __init__(self) -> None:
        self.probe: Batch | None = None
        """A span that the destination has stored, to find out whether it still accepts spans."""
        self.fruitless_attempts = 0
        """Number of attempts in a row that stored nothing and refused some spans."""
        self._first: int | None = None
        self._failures = 0

    def begin_attempt(self, first: int | None) -> None:
        """Record that an attempt begins.

        Args:
            first: The span id of its first span, by which a repeated attempt is recognised.
        """
        self._failures = self._failures + 1 if first == self._first else 1
        self._first = first

    @property
    def is_stuck(self) -> bool:
        """Whether the current attempt is one of many at the same spans."""
        return self._failures >= _ATTEMPTS_TO_EXAMINE

    def record_stored(self, batch: Batch) -> None:
        """Record that the destination has stored the whole batch."""
        self.fruitless_attempts = 0
        # The latest batch, not the first: a user may have deleted older traces since.
        probe = batch.spans[0]
        if probe.size <= _MAX_PROBE_BYTES:
            self.probe = Batch((probe,), batch.experiment_id)


@dataclass(frozen=True, slots=True)
class Settled:
    """A batch, or a part of one, that is stored or refused for good."""

    batch: Batch
    outcome: Sent | Rejected


@dataclass(slots=True)
class AttemptResult:
    """Result of one attempt.

    Attributes:
        settled: Batches that need no further attempt, in the order in which they were settled.
        retry: Why the remaining batches are not settled; ``None`` if there are none.
        refused_bytes: Size of the smallest batch that was too large; ``None`` if none was.
    """

    settled: list[Settled] = field(default_factory=list[Settled])
    retry: Retry | None = None
    refused_bytes: int | None = None


class Attempt:
    """Sends batches, in order.

    Args:
        send: Makes one request or write; raises nothing.
        history: Outlives the attempt.
        smaller: Cuts the values of a batch of one span; ``None`` if they are short already.
    """

    def __init__(
        self,
        send: Callable[[Batch], Outcome],
        history: DestinationHistory,
        smaller: Callable[[Batch], Batch | None],
    ) -> None:
        self._send = send
        self._history = history
        self._smaller = smaller
        self._accepts_spans = False
        self._suspects: list[Settled] = []
        self._result = AttemptResult()

    def run(self, batches: Iterable[Batch]) -> AttemptResult:
        """Settle all batches, or as many as can be settled before a `Retry`."""
        self._result.retry = self._settle_all(deque(batches))
        return self._result

    def _settle_all(self, queue: deque[Batch]) -> Retry | None:
        while queue:
            batch = queue.popleft()
            outcome = self._examined(self._send(batch))
            if isinstance(outcome, Retry):
                return outcome
            if isinstance(outcome, Sent):
                self._record_stored(batch, outcome)
            else:
                queue.extendleft(reversed(self._rest_of(batch, outcome)))
            if len(self._suspects) >= _ENOUGH_SUSPECTS and not self._takes_one_of(queue):
                return self._everything_refused()
        return self._everything_refused() if self._suspects else None

    def _takes_one_of(self, queue: deque[Batch]) -> bool:
        """Try one of the other spans alone, with each attempt another, to compare the suspects."""
        spans = [(batch, span) for batch in queue for span in batch.spans]
        if not spans:
            return False
        batch, span = spans[self._history.fruitless_attempts % len(spans)]
        outcome = self._send(replace(batch, spans=(span,)))
        if not isinstance(outcome, Sent) or not outcome.spans:
            return False
        # The span is sent again with its batch, which is harmless.
        self._accepts_spans = True
        self._confirm_suspects()
        return True

    def _examined(self, outcome: Outcome) -> Outcome:
        """The outcome, as a rejection if the spans are the reason, or a retry if they are not."""
        if isinstance(outcome, Sent):
            return outcome
        if isinstance(outcome, Rejected):
            in_question = outcome.divisible and not outcome.too_large
        else:
            in_question = outcome.about_spans and (outcome.lasting or self._history.is_stuck)
        if not in_question:
            return outcome
        if not self._accepts_spans and (failure := self._send_probe()) is not None:
            return failure
        return Rejected(outcome.reason) if self._accepts_spans else outcome

    def _send_probe(self) -> Retry | None:
        """Test with a probe whether the destination accepts spans; the reason if it does not."""
        probe = self._history.probe
        if probe is None:
            return None
        outcome = self._send(probe)
        self._accepts_spans = isinstance(outcome, Sent)
        if isinstance(outcome, Rejected):
            return Retry(outcome.reason, lasting=True, refused=True)
        return outcome if isinstance(outcome, Retry) else None

    def _record_stored(self, batch: Batch, sent: Sent) -> None:
        self._result.settled.append(Settled(batch, sent))
        if sent.spans:
            self._accepts_spans = True
            self._confirm_suspects()
        if sent.rejected == 0:
            self._history.record_stored(batch)

    def _rest_of(self, batch: Batch, outcome: Rejected) -> tuple[Batch, ...]:
        """The batches to send instead of a batch that was refused."""
        if outcome.too_large:
            size = sum(span.size for span in batch.spans)
            self._result.refused_bytes = min(size, self._result.refused_bytes or size)
        if outcome.divisible and len(batch.spans) > 1:
            return batch.halves()
        if outcome.too_large and (smaller := self._smaller(batch)) is not None:
            return (smaller,)
        refused = Settled(batch, outcome)
        if outcome.divisible and not self._accepts_spans:
            self._suspects.append(refused)
        else:
            self._result.settled.append(refused)
        return ()

    def _confirm_suspects(self) -> None:
        self._result.settled += self._suspects
        self._suspects = []

    def _everything_refused(self) -> Retry:
        self._history.fruitless_attempts += 1
        outcome = self._suspects[0].outcome
        return Retry(outcome.reason, lasting=True, refused=True)
