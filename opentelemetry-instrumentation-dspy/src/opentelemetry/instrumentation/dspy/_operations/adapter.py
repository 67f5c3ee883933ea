# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of adapters, with their format and parse steps as attributes or as spans."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._calls.choosing import recorded_call
from opentelemetry.instrumentation.dspy._calls.failures import error_type
from opentelemetry.instrumentation.dspy._calls.steps import Step
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint, method_patch
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_ADAPTER_FALLBACK_FROM,
    DSPY_ADAPTER_FALLBACK_TO,
    DSPY_ADAPTER_FORMAT_DURATION,
    DSPY_ADAPTER_INPUT,
    DSPY_ADAPTER_MESSAGE_COUNT,
    DSPY_ADAPTER_OUTPUT,
    DSPY_ADAPTER_PARSE_DURATION,
    DSPY_ADAPTER_PARSE_ERROR_FIELD,
    DSPY_ADAPTER_PARSE_ERROR_TYPE,
    DSPY_ADAPTER_PARSE_FIELDS,
    DSPY_ADAPTER_TYPE,
    DSPY_OPERATION,
    DSPY_TRUNCATED,
    Operations,
)

_MODULE = "dspy.adapters.base"
# Not a subclass of Adapter: it prepares calls of an adapter, or of a client without a prompt.
_DECISION = "dspy.adapters.decision"


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of adapters, for the settings of the runtime."""
    if not runtime.settings.capture_intermediate_steps:
        return _of_failures()
    call = AdapterOperation(
        runtime, Operations.ADAPTER, ("lm", "lm_kwargs", "signature", "demos", "inputs"), ""
    )
    steps: dict[str, Operation | Step]
    if runtime.settings.adapter_steps == "spans":
        format_ = AdapterOperation(
            runtime, Operations.ADAPTER_FORMAT, ("signature", "demos", "inputs"), ".format"
        )
        parse = AdapterOperation(
            runtime, Operations.ADAPTER_PARSE, ("signature", "completion"), ".parse"
        )
        steps = {"format": format_, "parse": parse}
        steps_effect = "adapter format and parse steps get no span"
    else:
        steps = {"format": FormatStep(call), "parse": ParseStep(call)}
        steps_effect = "spans of adapters lack the times of format and parse, and failures of parse"
    decision_effect = "calls of the decision adapter get no span"
    return [
        method_patch(_DECISION, "DecisionAdapter.__call__", call, decision_effect, since=(3, 4)),
        method_patch(_DECISION, "DecisionAdapter.acall", call, decision_effect, since=(3, 4)),
        ClassTreePatch(
            _MODULE,
            "Adapter",
            {"__call__": call, "acall": call},
            "adapter calls get no span",
            closure_on_root=True,
        ),
        # Each adapter class, also a user's, gets its own copy of what it inherits here.
        ClassTreePatch(_MODULE, "Adapter", steps, steps_effect, closure_on_root=False),
    ]


def _of_failures() -> Sequence[PatchPoint]:
    """The patch points of failures alone, which the span of the calling module then has."""
    attempt, effect = FailureOfModule(parses=False), "failures of adapters are not recorded"
    parse = FailureOfModule(parses=True)
    return [
        ClassTreePatch(
            _MODULE,
            "Adapter",
            {"__call__": attempt, "acall": attempt},
            effect,
            closure_on_root=True,
        ),
        ClassTreePatch(_MODULE, "Adapter", {"parse": parse}, effect, closure_on_root=False),
    ]


# Arguments other than the data: described elsewhere in the trace, or no data at all.
_NOT_RECORDED = ("lm", "lm_kwargs", "signature")
_CONTAINERS = (list, dict)
_TEXT = {str}
_LIST_AND_DICT = (list, dict)
_PARSE_ERROR: type[Any] = dspy.utils.exceptions.AdapterParseError


class AdapterOperation(Operation):
    """One of the three operations of adapters."""

    def __init__(
        self, runtime: Runtime, name: str, parameters: tuple[str, ...], suffix: str
    ) -> None:
        self.name = name
        self._parameters = parameters
        # The recorded parameters follow those that are not recorded.
        self._recorded = [name for name in parameters if name not in _NOT_RECORDED]
        self._first = len(parameters) - len(self._recorded)
        self._keywords = frozenset(self._recorded)
        self._suffix = suffix
        self._content = runtime.content
        self._settings = runtime.settings
        self._has_failures = runtime.settings.adapter_steps == "attributes"
        # The two operations have the same text, unless a redaction hook returns different values.
        repeats = runtime.settings.adapter_steps == "spans" and runtime.settings.redact is None
        self._is_repeated = repeats and name == Operations.ADAPTER
        self._repeats = repeats and name == Operations.ADAPTER_FORMAT

    def start(self, call: Call) -> SpanStart:
        kind = type(call.instance).__name__
        attributes: Attributes = {DSPY_OPERATION: self.name, DSPY_ADAPTER_TYPE: kind}
        handled = sys.exc_info()[1]
        call.state = AdapterRecord(id(handled) if handled is not None else 0)
        if handled is not None:
            failed = _enclosing_adapter(call)
            state = failed.state if failed is not None else None
            # An adapter called while another adapter handles its own error is its fallback.
            if (
                failed is not None
                and isinstance(state, AdapterRecord)
                and state.handled != id(handled)
            ):
                attributes[DSPY_ADAPTER_FALLBACK_FROM] = type(failed.instance).__name__
                if failed.recording:
                    failed.attributes[DSPY_ADAPTER_FALLBACK_TO] = kind
                    if self._has_failures:
                        _record_unparsed(failed, handled)
        return kind + self._suffix, attributes, INTERNAL

    def inputs(self, call: Call, attributes: Attributes) -> None:
        if not self._settings.records_inputs:
            return
        data = self._data(call)
        text = _text_of_enclosing(call, data) if self._repeats else None
        if text is not None:
            self._content.put_encoded(attributes, DSPY_ADAPTER_INPUT, self.name, data, text)
            return
        self._content.put(attributes, DSPY_ADAPTER_INPUT, self.name, data)
        if self._is_repeated and DSPY_TRUNCATED not in attributes and _is_all_text(data):
            record: AdapterRecord = call.state
            record.inputs, record.text = dict(data["inputs"]), attributes[DSPY_ADAPTER_INPUT]

    def _data(self, call: Call) -> dict[str, Any]:
        args, kwargs = call.args, call.kwargs
        # DSPy's own two ways of calling come first.
        if len(args) == len(self._parameters) and not kwargs:
            return dict(zip(self._recorded, args[self._first :], strict=True))
        if kwargs.keys() >= self._keywords:
            return {name: kwargs[name] for name in self._recorded}
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        return {name: item for name, item in given.items() if name not in _NOT_RECORDED}

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        # An adapter may be a function that is not async and returns an awaitable.
        if self._settings.records_outputs and not (
            type(result) not in _CONTAINERS and inspect.isawaitable(result)
        ):
            self._content.put(attributes, DSPY_ADAPTER_OUTPUT, self.name, result)

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        if error is not None:
            attributes.update(_parse_failure(error))


class AdapterRecord:
    """The state of one adapter call.

    Attributes:
        handled: Identity of the exception that was being handled when the call began; 0 for none.
        inputs: Copy of its inputs, if they are all texts and there are no demos.
        text: The JSON of these inputs and demos, which the format step receives as well.
        in_step: Whether a format or parse step is running.
    """

    __slots__ = ("handled", "in_step", "inputs", "text")

    def __init__(self, handled: int) -> None:
        self.handled = handled
        self.inputs: dict[str, str] | None = None
        self.text: str | None = None
        self.in_step = False


class _AdapterStep(Step):
    """A step of an adapter, as attributes of the adapter's span."""

    duration: str

    def __init__(self, operation: AdapterOperation) -> None:
        self._operation = operation

    def call_for(self, current: Call, instance: Any) -> Call | None:
        record = current.state
        if current.instance is not instance or current.operation is not self._operation:
            return None  # called by the program itself
        if type(record) is not AdapterRecord or record.in_step:
            return None  # called by super()
        record.in_step = True
        return current

    def ended(
        self, call: Call, instance: Any, result: Any, error: BaseException | None, seconds: float
    ) -> None:
        if type(call.state) is AdapterRecord:
            call.state.in_step = False
        attributes = call.attributes
        attributes[self.duration] = attributes.get(self.duration, 0.0) + seconds


class FormatStep(_AdapterStep):
    """The rendering of the messages."""

    duration = DSPY_ADAPTER_FORMAT_DURATION

    def ended(
        self, call: Call, instance: Any, result: Any, error: BaseException | None, seconds: float
    ) -> None:
        super().ended(call, instance, result, error, seconds)
        if type(result) is list:
            call.attributes[DSPY_ADAPTER_MESSAGE_COUNT] = len(result)  # type: ignore[reportUnknownArgumentType]


class ParseStep(_AdapterStep):
    """The reading of a completion."""

    duration = DSPY_ADAPTER_PARSE_DURATION

    def ended(
        self, call: Call, instance: Any, result: Any, error: BaseException | None, seconds: float
    ) -> None:
        super().ended(call, instance, result, error, seconds)
        if isinstance(error, Exception):
            record_parse_failure(call, error)
        elif type(result) is dict:
            call.attributes[DSPY_ADAPTER_PARSE_FIELDS] = tuple(result)  # type: ignore[reportUnknownArgumentType]


class FailureOfModule(Step):
    """Failures of adapters on the span of the calling module, since adapters have no spans.

    Args:
        parses: Whether the step is a parse step, and not the call of an adapter.
    """

    def __init__(self, *, parses: bool) -> None:
        self._parses = parses

    def call_for(self, current: Call, instance: Any) -> Call | None:
        return recorded_call(current) if current.operation.name == Operations.MODULE else None

    def ended(
        self, call: Call, instance: Any, result: Any, error: BaseException | None, seconds: float
    ) -> None:
        kind, attributes = type(instance).__name__, call.attributes
        failed = attributes.get(DSPY_ADAPTER_TYPE)
        if failed is not None and failed != kind:
            attributes.setdefault(DSPY_ADAPTER_FALLBACK_TO, kind)
        if isinstance(error, Exception) and (self._parses or isinstance(error, _PARSE_ERROR)):
            attributes.setdefault(DSPY_ADAPTER_TYPE, kind)
            record_parse_failure(call, error)


def record_parse_failure(call: Call, error: BaseException) -> None:
    """Put a failure to read a completion on a span; the adapter may still succeed."""
    call.attributes[DSPY_ADAPTER_PARSE_ERROR_TYPE] = error_type(error)
    call.attributes.update(_parse_failure(error))
    call.record_handled(error)


def _record_unparsed(failed: Call, error: BaseException) -> None:
    """Put a failure on the span of an adapter that has fallen back without a parse step."""
    if DSPY_ADAPTER_PARSE_ERROR_TYPE not in failed.attributes and isinstance(error, _PARSE_ERROR):
        # The answer of the model was empty.
        record_parse_failure(failed, error)


def _parse_failure(error: BaseException) -> Attributes:
    fields = error_fields(error) if isinstance(error, _PARSE_ERROR) else ()
    return {DSPY_ADAPTER_PARSE_ERROR_FIELD: fields} if fields else {}


def _is_all_text(data: Mapping[str, Any]) -> bool:
    """Whether there are no demos and all inputs are str, so that comparing runs no user code."""
    demos: Any = data.get("demos")
    inputs: Any = data.get("inputs")
    kinds: tuple[Any, ...] = type(demos), type(inputs)  # type: ignore[reportUnknownVariableType]
    return kinds == _LIST_AND_DICT and not demos and set(map(type, inputs.values())) == _TEXT


def _text_of_enclosing(call: Call, data: Mapping[str, Any]) -> str | None:
    """The JSON of the adapter call around this step, if both have the same texts."""
    enclosing = call.parent.state if call.parent is not None else None
    if type(enclosing) is not AdapterRecord or enclosing.text is None or not _is_all_text(data):
        return None
    return enclosing.text if data["inputs"] == enclosing.inputs else None


def _enclosing_adapter(call: Call) -> Call | None:
    """The adapter call that contains this adapter call; None for steps and outermost calls."""
    parent = call.parent
    if parent is None or parent.operation is not call.operation:
        return None
    return parent if type(parent.instance) is not type(call.instance) else None


def error_fields(error: Any) -> tuple[str, ...]:
    """Names of the output fields that are missing from a completion or could not be parsed."""
    text, expected = str(error), error.signature.output_fields
    for name, field in expected.items():
        # Adapters name the field; XMLAdapter shows the field itself.
        named = (f"field {name} with value ", f"field {name}: ", f"field {field} with value ")
        if text.startswith(tuple(f"Failed to parse {start}" for start in named)):
            return (name,)
    parsed: Any = error.parsed_result or ()
    return tuple(name for name in expected if name not in parsed)
