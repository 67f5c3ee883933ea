# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A destination in memory that fails as it is told to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent, TraceSight

Answer = Outcome | Exception | Callable[[], Outcome]


class FakeDestination:
    """Keeps the names of the spans that it stored, in order.

    ``answers`` are given in turn; after them, a batch with a span called "poison..." is rejected
    and every other one stored.
    """

    def __init__(
        self, answers: Iterable[Answer] = (), *, rejection: Rejected | None = None
    ) -> None:
        self.stored: list[str] = []
        self.attempts: list[int] = []
        self.closed = 0
        self.answers: deque[Answer] = deque(answers)
        self._rejection = rejection or Rejected("unstorable: a value")
        self.refuses_all = False

    def warm_up(self) -> Retry | Rejected | None:
        return None

    def send(self, batch: Batch) -> Outcome:
        names = [item.source.name for item in batch.spans]
        self.attempts.append(len(names))
        answer = self._next_answer(names)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Sent):
            self.stored += names[: answer.spans]
        return answer

    def look_up(self, trace_id: str) -> TraceSight | Retry | None:
        return None

    def close(self) -> None:
        self.closed += 1

    def _next_answer(self, names: list[str]) -> Outcome | Exception:
        if self.answers:
            answer = self.answers.popleft()
            return answer if isinstance(answer, (Sent, Retry, Rejected, Exception)) else answer()
        if self.refuses_all or any(name.startswith("poison") for name in names):
            return self._rejection
        return Sent(len(names))
