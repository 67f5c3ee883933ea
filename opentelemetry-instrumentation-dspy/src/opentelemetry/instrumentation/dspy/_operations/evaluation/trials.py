# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The trials of an optimizer, which are the evaluations inside of its ``compile``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import Call
from opentelemetry.instrumentation.dspy._guarding import new_lock


@dataclass
class CompileRecord:
    """The trials of one compilation so far."""

    trials: int = 0
    best_score: float | None = None
    lock: Any = field(default_factory=new_lock)

    def start_trial(self) -> int:
        """The index of a new trial, from 0."""
        with self.lock:
            self.trials += 1
            return self.trials - 1

    def record_score(self, score: float) -> None:
        """Record the score of a trial."""
        with self.lock:
            if self.best_score is None or score > self.best_score:
                self.best_score = score


def start_trial_of(call: Call) -> tuple[int | None, Callable[[float], None] | None]:
    """Count an evaluation as a trial of the compilation that it belongs to.

    Returns:
        The trial's index and a function to record its score; None and None outside of a
        compilation.
    """
    parent = call.parent
    while parent is not None:
        if parent.operation.name == semconv.Operations.COMPILE and parent.state is not None:
            record: CompileRecord = parent.state
            return record.start_trial(), record.record_score
        parent = parent.parent
    return None, None
