# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One attempt at storing batches: what is refused is divided, and no refusal is believed blindly.

A server whose database is out of order refuses good spans with the same words as bad ones. So a
span is given up only where the destination has just taken another one: one of the same attempt, or
one that it took before and is sent again for this purpose, which changes nothing in MLflow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent

# A witness is sent again now and then, so it should be cheap.
_MAX_WITNESS_BYTES: Final = 16_384
# So many spans refused one by one, and none taken, say that it is not the spans.
_ENOUGH_DOUBTS: Final = 8
# Fewer than that, and nothing else to compare with: so many attempts settle it.
_ATTEMPTS_IN_DOUBT: Final = 3


class Evidence:
    """What earlier attempts have shown about a destination. Used by one thread at a time."""

    def __init__(self) -> None:
        self.witness: Batch | None = None
        """A span that the destination has stored, to find out whether it still takes any."""
        self.attempts_in_doubt = 0
        """How many attempts in a row took nothing and refused some."""
        self._first: int | None = None
        self._failures = 0

    def begin(self, first: int | None) -> None:
        """Note a new attempt.

        Args:
            first: The span id of its first span, by which a repeated attempt is recognised.
        """
        self._failures = self._failures + 1 if first == self._first else 1
        self._first = first

    @property
    def is_stuck(self) -> bool:
        """Whether this is one of many attempts at the same spans."""
        return self._failures >= _ATTEMPTS_IN_DOUBT

    def took(self, batch: Batch) -> None:
        """Note that the destination has stored all of this batch."""
        self.attempts_in_doubt = 0
        # Of the last batch, and not of the first: a user may have deleted older traces since.
        witness = batch.spans[0]
        if witness.size <= _MAX_WITNESS_BYTES:
            self.witness = Batch((witness,), batch.experiment_id)


class Ledger(Protocol):
    """Where an attempt enters what became of its batches."""

    def stored(self, batch: Batch, sent: Sent) -> None: ...

    def refused(self, batch: Batch, refusal: Rejected) -> None: ...


@dataclass(frozen=True, slots=True)
class _Doubt:
    batch: Batch
    refusal: Rejected


class Attempt:
    """Sends batches, in order.

    Args:
        send: Makes one request or write; raises nothing.
        ledger: Told about each batch, or part of one, that is settled.
        evidence: Outlives the attempt.
        smaller: The same batch of one span with its values cut shorter; ``None`` if they are short.
    """

    def __init__(
        self,
        send: Callable[[Batch], Outcome],
        ledger: Ledger,
        evidence: Evidence,
        smaller: Callable[[Batch], Batch | None],
    ) -> None:
        self._send = send
        self._ledger = ledger
        self._evidence = evidence
        self._smaller = smaller
        self._takes_spans = False
        self._doubts: list[_Doubt] = []
        self.refused_bytes: int | None = None
        """Size of the smallest batch that was too large."""

    def run(self, batches: Iterable[Batch]) -> Retry | None:
        """Settle all batches; else what was in the way."""
        queue = deque(batches)
        while queue:
            batch = queue.popleft()
            outcome = self._judged(self._send(batch))
            if isinstance(outcome, Retry):
                return outcome
            if isinstance(outcome, Sent):
                self._note_stored(batch, outcome)
            else:
                queue.extendleft(reversed(self._rest_of(batch, outcome)))
            if len(self._doubts) >= _ENOUGH_DOUBTS:
                return _everything_refused(self._doubts[0].refusal.reason)
        return self._resolve_doubts()

    def _judged(self, outcome: Outcome) -> Outcome:
        """The outcome, as a rejection if the spans are to blame, or a retry if they are not."""
        if isinstance(outcome, Sent):
            return outcome
        if isinstance(outcome, Rejected):
            in_question = outcome.divisible and not outcome.too_large
        else:
            in_question = outcome.about_spans and (outcome.lasting or self._evidence.is_stuck)
        if not in_question:
            return outcome
        if not self._takes_spans and (failure := self._ask_witness()) is not None:
            return failure
        return Rejected(outcome.reason) if self._takes_spans else outcome

    def _ask_witness(self) -> Retry | None:
        """Find out whether the destination takes spans at all; why not, if it does not."""
        witness = self._evidence.witness
        if witness is None:
            return None
        outcome = self._send(witness)
        self._takes_spans = isinstance(outcome, Sent)
        if isinstance(outcome, Rejected):
            return _everything_refused(outcome.reason)
        return outcome if isinstance(outcome, Retry) else None

    def _note_stored(self, batch: Batch, sent: Sent) -> None:
        self._ledger.stored(batch, sent)
        if sent.spans:
            self._takes_spans = True
            self._believe_doubts()
        if sent.rejected == 0:
            self._evidence.took(batch)

    def _rest_of(self, batch: Batch, outcome: Rejected) -> tuple[Batch, ...]:
        """What to send instead of a batch that was refused."""
        if outcome.too_large:
            size = sum(span.size for span in batch.spans)
            self.refused_bytes = min(size, self.refused_bytes or size)
        if outcome.divisible and len(batch.spans) > 1:
            return batch.halves()
        if outcome.too_large and (smaller := self._smaller(batch)) is not None:
            return (smaller,)
        if outcome.divisible:
            self._doubts.append(_Doubt(batch, outcome))
            if self._takes_spans:
                self._believe_doubts()
        else:
            self._ledger.refused(batch, outcome)
        return ()

    def _resolve_doubts(self) -> Retry | None:
        if not self._doubts:
            return None
        if not self._takes_spans:
            self._evidence.attempts_in_doubt += 1
            if self._evidence.attempts_in_doubt < _ATTEMPTS_IN_DOUBT:
                return _everything_refused(self._doubts[0].refusal.reason)
        self._believe_doubts()
        return None

    def _believe_doubts(self) -> None:
        doubts, self._doubts = self._doubts, []
        for doubt in doubts:
            self._ledger.refused(doubt.batch, doubt.refusal)


def _everything_refused(reason: str) -> Retry:
    return Retry(reason, lasting=True)
