# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""A destination in memory that fails as it is told to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from mlflow_bridge._export.batches import Batch
from mlflow_bridge._export.contract import Outcome, Rejected, Retry, Sent, TraceSight
from mlflow_bridge._export.mapping.trace_details import TraceDetails
from mlflow_bridge._export.runs.contract import NewRun, RunFigures, RunStep
from mlflow_bridge._spans.annotation import Annotation

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
        self.batches: list[Batch] = []
        self.closed = 0
        self.answers: deque[Answer] = deque(answers)
        self._rejection = rejection or Rejected("unstorable: a value")
        self.refuses_all = False
        self.described: dict[str, TraceDetails] = {}
        self.failures: deque[Retry] = deque()
        """Given in turn by ``describe``."""
        self.annotations: list[Annotation] = []
        self.annotation_answers: deque[Outcome] = deque()
        self.runs: dict[str, NewRun] = {}
        """The runs that were made, by their ids."""
        self.ended: dict[str, RunFigures] = {}
        self.steps: list[tuple[str, RunStep]] = []
        self.run_failures: deque[Retry | Rejected] = deque()
        """Given in turn by ``begin_run`` and ``end_run``."""

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
            self.batches.append(batch)
        return answer

    def look_up(self, trace_id: str) -> TraceSight | Retry | None:
        return None

    def describe(self, trace_id: str, details: TraceDetails) -> Retry | None:
        failure = self.failures.popleft() if self.failures else None
        if failure is None:
            self.described[trace_id] = details
        return failure

    def annotate(self, annotation: Annotation) -> Outcome:
        answer = self.annotation_answers.popleft() if self.annotation_answers else Sent(1)
        if isinstance(answer, Sent):
            self.annotations.append(annotation)
        return answer

    def begin_run(self, run: NewRun) -> str | Retry | Rejected:
        if self.run_failures:
            return self.run_failures.popleft()
        run_id = f"run of {run.key}"
        self.runs.setdefault(run_id, run)
        return run_id

    def log_step(self, run_id: str, step: RunStep) -> Retry | Rejected | None:
        if self.run_failures:
            return self.run_failures.popleft()
        self.steps.append((run_id, step))
        return None

    def end_run(self, run_id: str, figures: RunFigures) -> Retry | Rejected | None:
        if self.run_failures:
            return self.run_failures.popleft()
        self.ended[run_id] = figures
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
