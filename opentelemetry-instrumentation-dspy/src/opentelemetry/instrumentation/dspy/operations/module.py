# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of ``dspy.Module`` and everything built on it: programs, predictors, agents."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import dspy
from opentelemetry.instrumentation.dspy.operations import attempts
from opentelemetry.instrumentation.dspy.operations.agent import agent_kind, begin_agent
from opentelemetry.instrumentation.dspy.operations.attempts import AttemptsRecord, makes_attempts
from opentelemetry.instrumentation.dspy.operations.lm_request import without_credentials
from opentelemetry.instrumentation.dspy.operations.module_record import ModuleRecord, record_of
from opentelemetry.instrumentation.dspy.operations.own_attributes import items_in, own_attributes
from opentelemetry.instrumentation.dspy.operations.program import program_hash
from opentelemetry.instrumentation.dspy.operations.signature import (
    SignatureFacts,
    describe_signature,
)
from opentelemetry.instrumentation.dspy.patching import (
    ClassTreePatch,
    PatchPoint,
    method_patch,
)
from opentelemetry.instrumentation.dspy.peers import PeerCheck
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_AGENT_STEP_INDEX,
    DSPY_ATTEMPT_INDEX,
    DSPY_LM_CALL_COUNT,
    DSPY_MODULE_COMPILED,
    DSPY_MODULE_CPU_TIME,
    DSPY_MODULE_DEMO_COUNT,
    DSPY_MODULE_EXTRA_INPUTS,
    DSPY_MODULE_INPUT,
    DSPY_MODULE_MISSING_INPUTS,
    DSPY_MODULE_MISTYPED_INPUTS,
    DSPY_MODULE_OUTPUT,
    DSPY_MODULE_PATH,
    DSPY_MODULE_SIGNATURE,
    DSPY_MODULE_TYPE,
    DSPY_OPERATION,
    DSPY_PREDICTION_COMPLETION_COUNT,
    DSPY_PROGRAM_HASH,
    DSPY_SIGNATURE_FIELDS,
    DSPY_SIGNATURE_FINGERPRINT,
    DSPY_SIGNATURE_INPUT_FIELDS,
    DSPY_SIGNATURE_INSTRUCTIONS,
    DSPY_SIGNATURE_NAME,
    DSPY_SIGNATURE_OUTPUT_FIELDS,
    GEN_AI_AGENT_NAME,
    GEN_AI_OPERATION_NAME,
    GEN_AI_WORKFLOW_NAME,
    GenAIOperations,
    Operations,
)
from opentelemetry.instrumentation.dspy.tracing import (
    Attributes,
    Call,
    Runtime,
    SpanStart,
    guarded,
)

_NO_SIGNATURE_NAME = "StringSignature"


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of module calls."""
    operation = ModuleOperation(runtime)
    module, effect = "dspy.primitives.module", "module calls get no span"
    overrides = ClassTreePatch(
        module,
        "Module",
        {"__call__": operation, "acall": operation},
        "modules that override __call__ or acall without super() get no span",
        closure_on_root=False,
        # What DSPy's own modules override calls super(); programs hold bound methods of theirs.
        users_only=True,
    )
    return [
        method_patch(module, "Module.__call__", operation, effect),
        method_patch(module, "Module.acall", operation, effect),
        overrides,
        *attempts.patch_points(),
    ]


class ModuleOperation:
    """A call of a module: the outermost is the workflow, agents are agents, Predict a predict."""

    name = Operations.MODULE

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings
        self._check_peers = PeerCheck()

    def start(self, call: Call) -> SpanStart:
        module = call.instance
        module_type: type[Any] = type(module)  # type: ignore[reportUnknownVariableType]
        kind = module_type.__name__
        record = call.state = ModuleRecord(describe_signature(_signature_of(call)))
        place = _place_in_parent(call)
        # An attempt is made with a copy, which no attribute of the program holds.
        call.path = _path_of_attempt(call) if DSPY_ATTEMPT_INDEX in place else module_path(call)
        attributes = {**self._kind_attributes(call, record.facts), **place}
        agent = agent_kind(module_type)
        if agent is not None:
            record.agent = begin_agent(agent, module, call.kwargs)
            attributes[GEN_AI_OPERATION_NAME] = GenAIOperations.INVOKE_AGENT
            attributes[GEN_AI_AGENT_NAME] = call.path or kind
            return SpanStart(_joined("invoke_agent", kind, call.path), attributes)
        if makes_attempts(module_type):
            record.attempts = AttemptsRecord(module)
        if _is_outermost(call):
            self._check_peers()
            attributes[GEN_AI_OPERATION_NAME] = GenAIOperations.INVOKE_WORKFLOW
            attributes[GEN_AI_WORKFLOW_NAME] = kind
            return SpanStart(f"invoke_workflow {kind}", attributes)
        label = call.path or _signature_label(record.facts)
        return SpanStart(_joined(kind, label), attributes)

    def _kind_attributes(self, call: Call, facts: SignatureFacts | None) -> Attributes:
        is_predict = isinstance(call.instance, dspy.Predict)
        attributes: Attributes = {
            DSPY_OPERATION: Operations.PREDICT if is_predict else Operations.MODULE,
            DSPY_MODULE_TYPE: type(call.instance).__name__,
        }
        if call.path:
            attributes[DSPY_MODULE_PATH] = call.path
        if facts is not None and self._settings.capture_signatures:
            attributes[DSPY_MODULE_SIGNATURE] = facts.text
        return attributes

    def inputs(self, call: Call) -> Attributes:
        attributes: Attributes = {}
        module = call.instance
        record: ModuleRecord = call.state
        if record.facts is not None and self._settings.capture_signatures:
            self._describe(attributes, record.facts)
        if isinstance(module, dspy.Predict):
            demos = call.kwargs.get("demos", module.demos)
            attributes[DSPY_MODULE_DEMO_COUNT] = len(demos) if demos else 0
            attributes.update(_invalid_inputs(call, record.facts))
        if getattr(module, "_compiled", False) is True:
            attributes[DSPY_MODULE_COMPILED] = True
        if _is_outermost(call):
            guarded(_put_hash, attributes, module)
        if self._settings.records_inputs:
            self._content.put(attributes, DSPY_MODULE_INPUT, self.name, _arguments(call))
        return attributes

    def _describe(self, attributes: Attributes, facts: SignatureFacts) -> None:
        attributes[DSPY_SIGNATURE_NAME] = facts.name
        attributes[DSPY_SIGNATURE_INPUT_FIELDS] = facts.input_fields
        attributes[DSPY_SIGNATURE_OUTPUT_FIELDS] = facts.output_fields
        attributes[DSPY_SIGNATURE_FINGERPRINT] = facts.fingerprint
        if self._settings.content_mode.in_spans:
            # These are a prompt: an optimizer writes the program's data into them.
            self._content.put_text(
                attributes, DSPY_SIGNATURE_INSTRUCTIONS, self.name, facts.instructions
            )
            self._content.put_encoded(
                attributes, DSPY_SIGNATURE_FIELDS, self.name, facts.fields, facts.fields_json
            )

    def outputs(self, call: Call, result: Any) -> Attributes:
        attributes: Attributes = {}
        record: ModuleRecord = call.state
        around = record_of(call.parent)
        if around is not None and around.agent is not None:
            around.agent.end_call(call.instance, call.kwargs, result)
        if record.agent is not None:
            attributes.update(record.agent.ended(result, None))
        if record.attempts is not None:
            attributes.update(record.attempts.ended(result))
        if isinstance(result, dspy.Prediction) and result.completions is not None:
            attributes[DSPY_PREDICTION_COMPLETION_COUNT] = len(result.completions)
        if self._settings.records_outputs:
            self._content.put(attributes, DSPY_MODULE_OUTPUT, self.name, result)
        return attributes

    def ended(self, call: Call, error: BaseException | None) -> Attributes:
        attributes: Attributes = {DSPY_LM_CALL_COUNT: call.lm_calls}
        if not call.recording:
            return attributes
        record: ModuleRecord = call.state
        cpu_time = None if call.asynchronous else record.cpu_seconds()
        if cpu_time is not None:
            attributes[DSPY_MODULE_CPU_TIME] = cpu_time
        if error is not None:
            attributes.update(_failed(call, record, error))
        return attributes


def _place_in_parent(call: Call) -> Attributes:
    """Which step of the agent, or which attempt, a module call is."""
    around = record_of(call.parent)
    if around is None:
        return {}
    if around.agent is not None:
        index, attribute = (
            around.agent.begin_call(call.instance, call.kwargs),
            DSPY_AGENT_STEP_INDEX,
        )
    elif around.attempts is not None:
        index, attribute = around.attempts.begin_call(call.instance), DSPY_ATTEMPT_INDEX
    else:
        return {}
    return {} if index is None else {attribute: index}


def _is_outermost(call: Call) -> bool:
    return next(_enclosing_modules(call), None) is None


def _path_of_attempt(call: Call) -> str:
    around = call.parent.path if call.parent is not None else None
    return f"{around}.module" if around else "module"


def _failed(call: Call, record: ModuleRecord, error: BaseException) -> Attributes:
    around = record_of(call.parent)
    if around is not None and around.agent is not None:
        around.agent.fail_call(call.instance, error)
    if record.agent is not None:
        return record.agent.ended(None, error)
    return record.attempts.ended(None) if record.attempts is not None else {}


def _put_hash(attributes: Attributes, program: Any) -> None:
    digest = program_hash(program)
    if digest is not None:
        attributes[DSPY_PROGRAM_HASH] = digest


def _invalid_inputs(call: Call, facts: SignatureFacts | None) -> Attributes:
    """Names of the inputs of a ``Predict`` that are missing, unknown or of another type."""
    given = call.kwargs
    if facts is None or (not facts.types and frozenset(given) == facts.input_names):
        return {}
    found = {
        DSPY_MODULE_MISSING_INPUTS: facts.missing_inputs(given),
        DSPY_MODULE_EXTRA_INPUTS: facts.extra_inputs(given),
        DSPY_MODULE_MISTYPED_INPUTS: facts.mistyped_inputs(given),
    }
    return {attribute: names for attribute, names in found.items() if names}


def module_path(call: Call) -> str | None:
    """Where a module stands in its program, as in ``named_predictors()``; None where unknown.

    Found through the modules that are calling it, so it costs nothing for modules that are not
    called, and follows a program through an optimizer's copies.
    """
    module = call.instance
    for enclosing in _enclosing_modules(call):
        name = _name_in(enclosing.instance, module)
        if name is not None:
            return f"{enclosing.path}.{name}" if enclosing.path else name
    return None


def _enclosing_modules(call: Call) -> Iterator[Call]:
    parent = call.parent
    while parent is not None:
        if parent.operation is call.operation:
            yield parent
        parent = parent.parent


def _name_in(program: Any, module: Any) -> str | None:
    attributes = own_attributes(program)
    for name, value in attributes.items():
        if value is module:
            return name
    for name, value in attributes.items():
        for place, item in items_in(value):
            if item is module:
                return name + place
    return None


def _signature_of(call: Call) -> Any:
    attributes = own_attributes(call.instance)
    if isinstance(call.instance, dspy.Predict):
        return call.kwargs.get("signature", attributes.get("signature"))
    signature: Any = attributes.get("signature")
    if signature is None and isinstance(attributes.get("predict"), dspy.Predict):
        signature = own_attributes(attributes["predict"]).get("signature")  # ChainOfThought
    return signature


def _signature_label(facts: SignatureFacts | None) -> str | None:
    return facts.name if facts is not None and facts.name != _NO_SIGNATURE_NAME else None


def _joined(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def _arguments(call: Call) -> dict[str, Any]:
    given = dict(call.kwargs) if not call.args else {**_positional(call), **call.kwargs}
    if "config" in given and isinstance(call.instance, dspy.Predict):
        given["config"] = without_credentials(given["config"])
    return given


def _positional(call: Call) -> dict[str, Any]:
    # Looked up on the class: reading ``forward`` from an instance makes DSPy log a warning.
    kind: type[Any] = type(call.instance)  # type: ignore[reportUnknownVariableType]
    forward = getattr(kind, "aforward" if call.asynchronous else "forward", None)
    names: list[str] = []
    if forward is not None:
        parameters = list(inspect.signature(forward).parameters.values())[1:]
        names = [
            p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
    named = dict(zip(names, call.args, strict=False))
    rest = call.args[len(names) :]
    return {**named, "args": list(rest)} if rest else named
