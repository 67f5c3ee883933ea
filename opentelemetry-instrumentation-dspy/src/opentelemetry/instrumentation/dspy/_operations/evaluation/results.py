# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The result of an evaluation as ``gen_ai.evaluation.result``, below the span that is evaluated.

It is a log record, as in the GenAI conventions. In a program without logs it is an event of the
example's span: the evaluated span has ended when its score is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import Attributes, Call, Runtime
from opentelemetry.instrumentation.dspy._operations.evaluation.scores import (
    feedback_of,
    label_of,
    own_label_of,
)

_NAME = semconv.Events.EVALUATION_RESULT


@dataclass(slots=True)
class ExampleRecord:
    """The data of one example while it runs.

    Attributes:
        evaluated: The context of the evaluated span; None until the program has ended.
        response_id: The id of the last response to the program.
        scoring: Whether the program has ended, so that later calls are the metric's.
    """

    evaluated: Context | None = None
    response_id: str | None = None
    scoring: bool = False

    def end_program(self, context: Context | None) -> None:
        """Note the end of the program, which is a call in this context."""
        if not self.scoring:
            self.evaluated, self.scoring = context, True


def program_ended(call: Call) -> None:
    """Note the end of a module's call, if it is the program of an example."""
    record = None if call.parent is None else call.parent.state
    if type(record) is ExampleRecord:
        record.end_program(call.context)


class ResultEvents:
    """The emitter of results of evaluations."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        mode, outputs = runtime.settings.content_mode, runtime.settings.capture_outputs
        self._content_in_spans = runtime.settings.records_outputs
        self._content_in_events = mode.in_events and outputs

    def emit(self, call: Call, name: str | None, score: float, outcome: Any) -> None:
        """Emit the result of an example.

        Args:
            call: The call of the example.
            name: The name of the metric, if known.
            score: The score.
            outcome: What the metric has returned.
        """
        log = self._runtime.log
        attributes: Attributes = {semconv.GEN_AI_EVALUATION_SCORE_VALUE: score}
        if name is not None:
            attributes[semconv.GEN_AI_EVALUATION_NAME] = name
        label = label_of(outcome)
        if label is not None:
            attributes[semconv.GEN_AI_EVALUATION_SCORE_LABEL] = label
        record: ExampleRecord = call.state
        if record.response_id is not None:
            attributes[semconv.GEN_AI_RESPONSE_ID] = record.response_id
        if log is not None and log.is_on(_NAME):
            if self._content_in_events:
                self._put_content(attributes, outcome)
            log.emit(_NAME, attributes, record.evaluated or call.context)
        elif call.span is not None:
            if self._content_in_spans:
                self._put_content(attributes, outcome)
            call.span.add_event(_NAME, attributes)

    def _put_content(self, attributes: Attributes, outcome: Any) -> None:
        put_explanation(self._runtime, attributes, outcome, semconv.Operations.EXAMPLE)
        label = own_label_of(outcome)
        if label is not None:
            self._runtime.content.put_text(
                attributes,
                semconv.GEN_AI_EVALUATION_SCORE_LABEL,
                semconv.Operations.EXAMPLE,
                label,
            )


def put_explanation(runtime: Runtime, attributes: Attributes, outcome: Any, operation: str) -> None:
    """Add the feedback of a metric, which is content, to attributes of an operation."""
    feedback = feedback_of(outcome)
    if feedback is not None:
        runtime.content.put_text(
            attributes, semconv.GEN_AI_EVALUATION_EXPLANATION, operation, feedback
        )
