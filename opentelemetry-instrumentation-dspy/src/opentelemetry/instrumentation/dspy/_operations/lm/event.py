# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The event of an LM call: the attributes of its span, with messages as structured values."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import (
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._calls.failures import error_type
from opentelemetry.instrumentation.dspy._events import EventLog, structured
from opentelemetry.instrumentation.dspy._settings import ContentMode, Settings

_CONTENT = (
    semconv.GEN_AI_INPUT_MESSAGES,
    semconv.GEN_AI_OUTPUT_MESSAGES,
    semconv.GEN_AI_SYSTEM_INSTRUCTIONS,
    semconv.GEN_AI_TOOL_DEFINITIONS,
    semconv.DSPY_LM_PARAMETERS,
)


def with_event(make: Callable[[Runtime, Settings], Operation], runtime: Runtime) -> Operation:
    """The operation that ``make`` returns; if content goes to events, one that emits them."""
    settings = runtime.settings
    if runtime.events is None:
        return make(runtime, settings)
    everywhere = dataclasses.replace(settings, content_mode=ContentMode.SPAN_AND_EVENT)
    return LMEventOperation(make(runtime, everywhere), settings, runtime.events)


class LMEventOperation(Operation):
    """An operation that also emits an event for each recorded call.

    Args:
        operation: Produces the attributes, with content on spans.
        settings: Decides whether content stays on the span.
        events: Emits the event.
    """

    def __init__(self, operation: Operation, settings: Settings, events: EventLog) -> None:
        self.name = operation.name
        self._operation = operation
        self._in_spans = settings.content_mode.in_spans
        self._events = events
        self._recorded: weakref.WeakKeyDictionary[Call, Attributes] = weakref.WeakKeyDictionary()

    def start(self, call: Call) -> SpanStart | None:
        return self._operation.start(call)

    def inputs(self, call: Call, attributes: Attributes) -> None:
        recorded = self._recorded[call] = {}
        self._operation.inputs(call, recorded)
        self._show(recorded, attributes)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        recorded = self._recorded[call]
        self._operation.outputs(call, result, recorded)
        self._show(recorded, attributes)

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        recorded = self._recorded.pop(call, None)
        self._operation.ended(call, error, attributes)
        if recorded is None:
            return
        event = {**call.start_attributes, **recorded, **attributes}
        for name in _CONTENT:
            if name in event:
                event[name] = structured(event[name])
        if error is not None:
            event[semconv.ERROR_TYPE] = error_type(error)
        self._events.emit(semconv.Events.INFERENCE_DETAILS, event, call.context)

    def _show(self, recorded: Attributes, attributes: Attributes) -> None:
        for name, value in recorded.items():
            if self._in_spans or name not in _NOT_ON_SPAN:
                attributes[name] = value


_NOT_ON_SPAN = frozenset((*_CONTENT, semconv.DSPY_TRUNCATED))
