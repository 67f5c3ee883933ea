# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of adapters, and their format and parse steps."""

from __future__ import annotations

import dataclasses
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
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint, method_patch
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_ADAPTER_FALLBACK_FROM,
    DSPY_ADAPTER_INPUT,
    DSPY_ADAPTER_OUTPUT,
    DSPY_ADAPTER_PARSE_ERROR_FIELD,
    DSPY_ADAPTER_TYPE,
    DSPY_OPERATION,
    DSPY_TRUNCATED,
    Operations,
)

_MODULE = "dspy.adapters.base"
# Not a subclass of Adapter: it prepares calls of an adapter, or of a client without a prompt.
_DECISION = "dspy.adapters.decision"


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of adapters; none if intermediate steps are not captured."""
    if not runtime.settings.capture_intermediate_steps:
        return []
    call = AdapterOperation(
        runtime, Operations.ADAPTER, ("lm", "lm_kwargs", "signature", "demos", "inputs"), ""
    )
    format_ = AdapterOperation(
        runtime, Operations.ADAPTER_FORMAT, ("signature", "demos", "inputs"), ".format"
    )
    parse = AdapterOperation(
        runtime, Operations.ADAPTER_PARSE, ("signature", "completion"), ".parse"
    )
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
        ClassTreePatch(
            _MODULE,
            "Adapter",
            {"format": format_, "parse": parse},
            "adapter format and parse steps get no span",
            # Each adapter class, also a user's, gets its own copy of what it inherits here.
            closure_on_root=False,
        ),
    ]


# Arguments other than the data: described elsewhere in the trace, or no data at all.
_NOT_RECORDED = ("lm", "lm_kwargs", "signature")
_CONTAINERS = (list, dict)
_TEXT = {str}
_LIST_AND_DICT = (list, dict)


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
        # A redaction hook may return different values for the two operations.
        redacts = runtime.settings.redact is not None
        self._is_repeated = name == Operations.ADAPTER and not redacts
        self._repeats = name == Operations.ADAPTER_FORMAT and not redacts
        self._parse_error: type[Any] = dspy.utils.exceptions.AdapterParseError

    def start(self, call: Call) -> SpanStart:
        kind = type(call.instance).__name__
        attributes: Attributes = {DSPY_OPERATION: self.name, DSPY_ADAPTER_TYPE: kind}
        handled = sys.exc_info()[1]
        if handled is not None:
            call.state = _AdapterRecord(id(handled))
            enclosing = _enclosing_adapter(call)
            # An adapter called while another adapter handles its own error is its fallback.
            if enclosing is not None and enclosing.state != call.state:
                attributes[DSPY_ADAPTER_FALLBACK_FROM] = type(enclosing.instance).__name__
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
            record = call.state = call.state or _AdapterRecord()
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
        if error is None or not isinstance(error, self._parse_error):
            return
        fields = error_fields(error)
        if fields:
            attributes[DSPY_ADAPTER_PARSE_ERROR_FIELD] = fields


@dataclasses.dataclass(slots=True)
class _AdapterRecord:
    """The state of one adapter call.

    Attributes:
        handled: Identity of the exception that was being handled when the call began; 0 for none.
        inputs: Copy of its inputs, if they are all texts and there are no demos.
        text: The JSON of these inputs and demos, which the format step receives as well.
    """

    handled: int = 0
    inputs: dict[str, str] | None = dataclasses.field(default=None, compare=False)
    text: str | None = dataclasses.field(default=None, compare=False)


def _is_all_text(data: Mapping[str, Any]) -> bool:
    """Whether there are no demos and all inputs are str, so that comparing runs no user code."""
    demos: Any = data.get("demos")
    inputs: Any = data.get("inputs")
    kinds: tuple[Any, ...] = type(demos), type(inputs)  # type: ignore[reportUnknownVariableType]
    return kinds == _LIST_AND_DICT and not demos and set(map(type, inputs.values())) == _TEXT


def _text_of_enclosing(call: Call, data: Mapping[str, Any]) -> str | None:
    """The JSON of the adapter call around this step, if both have the same texts."""
    enclosing = call.parent.state if call.parent is not None else None
    if type(enclosing) is not _AdapterRecord or enclosing.text is None or not _is_all_text(data):
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
