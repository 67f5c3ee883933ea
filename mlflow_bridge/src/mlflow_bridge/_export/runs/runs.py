# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of evaluations and optimizers, which are made and ended on the way of their spans.

A run begins in MLflow with the first trace that belongs to it, and gets its figures with the span
of the evaluation itself. So what is true of spans is true of runs: an outage of MLflow, the spool,
and the death of this process lose none.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from opentelemetry.trace import format_trace_id

from mlflow_bridge._export.contract import Rejected, Retry
from mlflow_bridge._export.mapping.span import MappedSpan
from mlflow_bridge._export.runs.contract import RUN_KEY_TAG, NewRun, RunStep, RunStore
from mlflow_bridge._export.runs.figures import figures_of
from mlflow_bridge._export.runs.totals import RunTotals
from mlflow_bridge._process.rate_limited_log import RateLimitedLogger
from mlflow_bridge._spans.attributes import as_dict
from mlflow_bridge._spans.otlp_json.decoder import SpooledSpan
from mlflow_bridge._spans.run_path import RunOfSpan, RunPath, run_path_of
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_EVALUATE_SCORE,
    DSPY_EVALUATE_TRACE_ID,
    DSPY_OPERATION,
    DSPY_OPTIMIZER_TRIAL_INDEX,
    Operations,
)

logger = logging.getLogger(__name__)

_RUN_TYPE: Final = "mlflow.runType"
_EVALUATION: Final = "genai_evaluate"
_PARENT: Final = "mlflow.parentRunId"
_MAX_KNOWN: Final = 4096
_WITH_OPTIMIZER: Final = 2
"""The shortest path of an evaluation inside of an optimizer."""


class Runs:
    """The runs that spans belong to. Used by one thread at a time.

    Args:
        store: Has the runs.
        source: Returns MLflow's description of the user and the running program, as tags.
    """

    def __init__(self, store: RunStore, source: Callable[[], Mapping[str, str]]) -> None:
        self.on_evaluation_ended: Callable[[str], object] = lambda _: None
        """Called with the id of the run of an evaluation that has its figures."""
        self._store = store
        self._source = source
        self._log = RateLimitedLogger(logger)
        self.forget()

    def forget(self) -> None:
        """Forget all runs, in a forked child."""
        self._known: OrderedDict[str, str] = OrderedDict()
        self._best: OrderedDict[str, float] = OrderedDict()
        self._totals = RunTotals()

    def with_runs(self, spans: Sequence[MappedSpan]) -> list[MappedSpan] | Retry:
        """The spans, of which the first spans of examples name their run, which exists.

        Returns:
            The failure if no run can be made now.
        """
        found: list[MappedSpan] = []
        for span in spans:
            path = _path_of_example(span)
            run_id = self._id_of(path, span) if path else None
            if isinstance(run_id, Retry):
                return run_id
            found.append(span if run_id is None else replace(span, run_id=run_id))
        return found

    def note_stored(self, span: MappedSpan) -> None:
        """Count what a stored span adds to its run."""
        self._totals.add(span)

    def end(self, span: MappedSpan) -> Retry | None:
        """Write the figures of the run that the span is, and end the run.

        Returns:
            The failure if a later attempt may help; the span must not be sent before.
        """
        path = run_path_of(span.source.attributes)
        run_id = self._id_of(path, span)
        if run_id is None or isinstance(run_id, Retry):
            return run_id
        totals = self._totals.of(path[-1].key)
        if _operation(span) == Operations.COMPILE:
            # An optimizer also calls models outside of its evaluations, in its own trace.
            totals.calls.add(self._totals.calls_in(span.trace_id))
        failure = self._store.end_run(run_id, figures_of(span, totals))
        if failure is None and _operation(span) == Operations.EVALUATE:
            self.on_evaluation_ended(run_id)
            failure = self._log_trial(path, span)
        return self._passing(failure)

    def _log_trial(self, path: RunPath, span: MappedSpan) -> Retry | Rejected | None:
        """Write the score of an evaluation as a step of the optimizer's run around it."""
        source = span.source.attributes or {}
        score, number = source.get(DSPY_EVALUATE_SCORE), source.get(DSPY_OPTIMIZER_TRIAL_INDEX)
        if len(path) < _WITH_OPTIMIZER or not isinstance(score, float):
            return None
        optimizer = path[-2]
        run_id = self._known.get(optimizer.key)
        if run_id is None or not isinstance(number, int):
            return None
        best = max(score, self._best.get(optimizer.key, score))
        self._best[optimizer.key] = best
        if len(self._best) > _MAX_KNOWN:
            self._best.popitem(last=False)
        metrics = {"trial/score": score, "trial/best_score": best}
        time_ms = (span.source.end_time or 0) // 1_000_000
        return self._store.log_step(run_id, RunStep(number, metrics, time_ms))

    def _id_of(self, path: RunPath, span: MappedSpan) -> str | Retry | None:
        """The id of the innermost run of a path; None if it cannot be made."""
        # The run that was active in the program contains the outermost run of the path.
        run_id = span.run_id
        for run in path:
            known = self._known.get(run.key)
            if known is None:
                made = self._store.begin_run(self._new_run(run, run_id, span))
                if not isinstance(made, str):
                    return self._passing(made)
                known = made
                self._remember(run.key, known)
            run_id = known
        return run_id

    def _new_run(self, run: RunOfSpan, parent_id: str | None, span: MappedSpan) -> NewRun:
        source = as_dict(span.source.attributes)
        trace_id = source.get(DSPY_EVALUATE_TRACE_ID) or format_trace_id(span.trace_id)
        # What ran in another process is not known.
        tags = {} if isinstance(span.source, SpooledSpan) else {**self._source()}
        tags.update({RUN_KEY_TAG: run.key, DSPY_EVALUATE_TRACE_ID: str(trace_id)})
        if run.name.startswith(f"{Operations.EVALUATE} "):
            tags[_RUN_TYPE] = _EVALUATION
        if parent_id is not None:
            tags[_PARENT] = parent_id
        start_ms = (span.source.start_time or 0) // 1_000_000
        return NewRun(run.key, run.name, span.experiment_id, start_ms, tags)

    def _remember(self, key: str, run_id: str) -> None:
        self._known[key] = run_id
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    def _passing(self, failure: Retry | Rejected | None) -> Retry | None:
        """The failure if it passes; else None, and a warning: no span may wait for a run."""
        if failure is None or (isinstance(failure, Retry) and not failure.lasting):
            return failure
        self._log.warning(
            "runs", "Traces are stored, but without the runs of evaluations: %s", failure.reason
        )
        return None


def is_run(span: MappedSpan) -> bool:
    """Whether the span is itself an evaluation or optimizer that is a run in MLflow."""
    attributes = span.source.attributes
    return _operation(span) in (Operations.EVALUATE, Operations.COMPILE) and bool(
        run_path_of(attributes)
    )


def _path_of_example(span: MappedSpan) -> RunPath:
    if not span.is_local_root or _operation(span) != Operations.EXAMPLE:
        return ()
    return run_path_of(span.source.attributes)


def _operation(span: MappedSpan) -> object:
    return (span.source.attributes or {}).get(DSPY_OPERATION)
