# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of ``dspy.Module`` and its subclasses: programs, predictors, agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import dspy
from opentelemetry.instrumentation.dspy._calls.by_class import cached_by_class
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
    positional_arguments,
    shortened,
)
from opentelemetry.instrumentation.dspy._guarding import guarded
from opentelemetry.instrumentation.dspy._operations.evaluation.results import program_ended
from opentelemetry.instrumentation.dspy._operations.modules import attempts
from opentelemetry.instrumentation.dspy._operations.modules.agent import (
    AgentRecord,
    agent_kind,
    agent_record,
    parameters_of_tools,
)
from opentelemetry.instrumentation.dspy._operations.modules.attempts import (
    AttemptsRecord,
    makes_attempts,
)
from opentelemetry.instrumentation.dspy._operations.modules.direct_forward import DirectForward
from opentelemetry.instrumentation.dspy._operations.modules.interface import (
    config_of,
    message_of,
    result_types,
    types_of,
)
from opentelemetry.instrumentation.dspy._operations.modules.program_hash import put_program_hash
from opentelemetry.instrumentation.dspy._operations.modules.program_state import shown_programs
from opentelemetry.instrumentation.dspy._operations.modules.record import ModuleRecord, record_of
from opentelemetry.instrumentation.dspy._operations.modules.resource_usage import ResourceUsage
from opentelemetry.instrumentation.dspy._operations.modules.signature import (
    SignatureDescription,
    describe_signature,
)
from opentelemetry.instrumentation.dspy._operations.reading import (
    NO_MODULES,
    instance_dict,
    items_in,
)
from opentelemetry.instrumentation.dspy._operations.services.endpoint import without_credentials
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.peers import PeerCheck
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint, method_patch
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_AGENT_STEP_INDEX,
    DSPY_ATTEMPT_INDEX,
    DSPY_LM_CALL_COUNT,
    DSPY_MODULE_COMPILED,
    DSPY_MODULE_CONFIG,
    DSPY_MODULE_DEMO_COUNT,
    DSPY_MODULE_EXTRA_INPUTS,
    DSPY_MODULE_INPUT,
    DSPY_MODULE_INPUT_TYPES,
    DSPY_MODULE_MISSING_INPUTS,
    DSPY_MODULE_MISTYPED_INPUTS,
    DSPY_MODULE_OUTPUT,
    DSPY_MODULE_OUTPUT_TYPES,
    DSPY_MODULE_PATH,
    DSPY_MODULE_SIGNATURE,
    DSPY_MODULE_TYPE,
    DSPY_OPERATION,
    DSPY_PREDICTION_COMPLETION_COUNT,
    DSPY_SIGNATURE_FIELDS,
    DSPY_SIGNATURE_INSTRUCTIONS,
    DSPY_SIGNATURE_METADATA,
    DSPY_SIGNATURE_QUALIFIED_NAME,
    GEN_AI_AGENT_NAME,
    GEN_AI_INPUT_MESSAGES,
    GEN_AI_OPERATION_NAME,
    GEN_AI_OUTPUT_MESSAGES,
    GEN_AI_TOOL_DEFINITIONS,
    GEN_AI_WORKFLOW_NAME,
    GenAIOperations,
    Operations,
)


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of module calls."""
    operation = module_operation(runtime)
    module, effect = "dspy.primitives.module", "module calls get no span"
    overrides = ClassTreePatch(
        module,
        "Module",
        {"__call__": operation, "acall": operation},
        "modules that override __call__ or acall without super() get no span",
        closure_on_root=False,
        # Overrides in DSPy call super(), and programs hold bound methods of them.
        users_only=True,
    )
    points: list[PatchPoint] = [
        method_patch(module, "Module.__call__", operation, effect),
        method_patch(module, "Module.acall", operation, effect),
        overrides,
        *attempts.patch_points(),
    ]
    if runtime.settings.trace_direct_forward:
        points.append(
            ClassTreePatch(
                module,
                "Module",
                {"forward": operation, "aforward": operation},
                "modules whose forward() is called directly get no span",
                closure_on_root=False,
                inner=True,
            )
        )
    return points


def module_operation(runtime: Runtime) -> ModuleOperation:
    """The one operation for all module calls, streamed ones included."""
    operation = runtime.operations.get(ModuleOperation.name)
    if not isinstance(operation, ModuleOperation):
        operation = runtime.operations[ModuleOperation.name] = ModuleOperation(runtime)
    return operation


class ModuleOperation(Operation):
    """A call of a module: of an agent, of the outermost module (a workflow), or of any other."""

    name = Operations.MODULE
    is_module = True

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings
        self._check_peers = PeerCheck()
        self._direct_forward = DirectForward(runtime.settings.trace_direct_forward)
        self._measures_all = runtime.settings.resource_usage == "all"
        self._measures = runtime.settings.resource_usage != "off"
        self._programs = shown_programs(runtime)

    def start(self, call: Call) -> SpanStart:
        module = call.instance
        module_type: type[Any] = type(module)  # type: ignore[reportUnknownVariableType]
        kind = _kind_of(module_type)
        signature = describe_signature(_signature_of(call, kind))
        enclosing = _enclosing_module(call)
        record = call.state = ModuleRecord(
            signature, is_predict=kind.is_predict, outermost=enclosing is None
        )
        attributes: Attributes = {
            DSPY_OPERATION: Operations.PREDICT if kind.is_predict else Operations.MODULE,
            DSPY_MODULE_TYPE: kind.name,
        }
        if enclosing is not None:
            _put_path_and_index(call, attributes)
        if signature is not None and self._settings.capture_signatures:
            attributes[DSPY_MODULE_SIGNATURE] = signature.text
        if kind.agent is not None:
            record.agent = agent_record(kind.agent, module, call.kwargs)
            attributes[GEN_AI_OPERATION_NAME] = GenAIOperations.INVOKE_AGENT
            own_name = self._name_of(kind, signature) if enclosing is None else kind.name
            attributes[GEN_AI_AGENT_NAME] = shortened(call.path or own_name)
            return _joined("invoke_agent", own_name, call.path), attributes, INTERNAL
        if kind.makes_attempts:
            record.attempts = AttemptsRecord(module)
        if enclosing is None:
            self._check_peers()
            self._direct_forward.look()
            attributes[GEN_AI_OPERATION_NAME] = GenAIOperations.INVOKE_WORKFLOW
            name = self._name_of(kind, signature)
            attributes[GEN_AI_WORKFLOW_NAME] = shortened(name)
            return f"invoke_workflow {name}", attributes, INTERNAL
        path = call.path
        if not path:
            return self._name_of(kind, signature), attributes, INTERNAL
        # The attribute is often named like the class: Predict predict.
        if path == kind.attribute:
            return kind.name, attributes, INTERNAL
        return f"{kind.name} {path.removesuffix(kind.suffix)}", attributes, INTERNAL

    def _name_of(self, kind: _Kind, signature: SignatureDescription | None) -> str:
        """The class, and what tells a module of DSPy's own classes from others."""
        if signature is None or not kind.is_dspys or not self._settings.capture_signatures:
            return kind.name
        return f"{kind.name} {signature.label}"

    def arguments(self, call: Call) -> Mapping[str, Any]:
        return arguments_of(call)

    def inputs(self, call: Call, attributes: Attributes) -> None:
        record: ModuleRecord = call.state
        signature = record.signature
        if signature is not None and self._settings.capture_signatures:
            attributes.update(signature.attributes)
            if self._settings.content_mode.in_spans:
                self._put_prompt(attributes, signature)
            if signature.metadata or self._settings.signature_metadata:
                self._put_metadata(attributes, signature)
        own = instance_dict(call.instance)
        if record.is_predict:
            demos = call.kwargs["demos"] if "demos" in call.kwargs else own.get("demos")
            attributes[DSPY_MODULE_DEMO_COUNT] = len(demos) if demos else 0
            if signature is not None and (
                signature.checks_types or frozenset(call.kwargs) != signature.input_names
            ):
                _put_invalid_inputs(attributes, signature, call.kwargs)
        if own.get("_compiled") is True:
            attributes[DSPY_MODULE_COMPILED] = True
        if record.agent is not None:
            self._content.arguments.learn(parameters_of_tools(call.instance))
        if record.outermost:
            self._put_program(call, attributes)
        config = config_of(call.instance, strings=self._settings.content_mode.in_spans)
        if config:
            self._content.put(attributes, DSPY_MODULE_CONFIG, self.name, config)
        if signature is None and self._settings.capture_signatures:
            attributes[DSPY_MODULE_INPUT_TYPES] = types_of(arguments_of(call))
        if self._settings.records_inputs:
            self._content.put(attributes, DSPY_MODULE_INPUT, self.name, arguments_of(call))
            if record.agent is not None:
                self._put_agent(attributes, record.agent)
        # Last, so that reading the arguments does not count.
        self._begin_measuring(record)

    def _put_program(self, call: Call, attributes: Attributes) -> None:
        guarded(put_program_hash, attributes, call.instance)
        if self._programs is not None:
            guarded(self._programs.show, call, attributes)

    def _begin_measuring(self, record: ModuleRecord) -> None:
        if self._measures_all or (record.outermost and self._measures):
            record.usage = ResourceUsage()

    def program_begins(self, call: Call) -> None:
        """Measure from now on, in the thread in which the program of a stream runs."""
        record: ModuleRecord = call.state
        if record.usage is not None:
            record.usage = ResourceUsage()

    def program_ended(self, call: Call) -> None:
        """Stop measuring, before the stream has ended."""
        record: ModuleRecord = call.state
        if record.usage is not None:
            call.attributes.update(record.usage.attributes(asynchronous=call.asynchronous))
            record.usage = None

    def _put_agent(self, attributes: Attributes, agent: AgentRecord) -> None:
        tools = agent.definitions()
        if tools:
            self._content.put(attributes, GEN_AI_TOOL_DEFINITIONS, self.name, tools)
        messages = [message_of("user", attributes[DSPY_MODULE_INPUT])]
        self._content.put(attributes, GEN_AI_INPUT_MESSAGES, self.name, messages)

    def _put_metadata(self, attributes: Attributes, signature: SignatureDescription) -> None:
        metadata = dict(signature.metadata)
        given = self._settings.signature_metadata or {}
        for name in (signature.name, signature.attributes.get(DSPY_SIGNATURE_QUALIFIED_NAME, "")):
            metadata.update(given.get(name) or {})
        if metadata:
            self._content.put(attributes, DSPY_SIGNATURE_METADATA, self.name, metadata)

    def _put_prompt(self, attributes: Attributes, signature: SignatureDescription) -> None:
        # Content, since optimizers write the program's data into them.
        self._content.put_text(
            attributes, DSPY_SIGNATURE_INSTRUCTIONS, self.name, signature.instructions
        )
        self._content.put_encoded(
            attributes, DSPY_SIGNATURE_FIELDS, self.name, signature.fields, signature.fields_json
        )

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        record: ModuleRecord = call.state
        caller = record_of(call.parent)
        if caller is not None and caller.agent is not None:
            caller.agent.record_answer(call.instance, call.kwargs, result)
        if record.agent is not None:
            attributes.update(record.agent.attributes(result, None))
        if record.attempts is not None:
            attributes.update(record.attempts.attributes(result))
        if issubclass(type(result), dspy.Prediction):
            completions = result.completions
            if completions is not None:
                attributes[DSPY_PREDICTION_COMPLETION_COUNT] = len(completions)
        if record.signature is None and self._settings.capture_signatures:
            attributes[DSPY_MODULE_OUTPUT_TYPES] = result_types(result)
        if self._settings.records_outputs:
            self._content.put(attributes, DSPY_MODULE_OUTPUT, self.name, result)
            if record.agent is not None:
                message = message_of("assistant", attributes[DSPY_MODULE_OUTPUT])
                answer = [{**message, "finish_reason": "stop"}]
                self._content.put(attributes, GEN_AI_OUTPUT_MESSAGES, self.name, answer)

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        attributes[DSPY_LM_CALL_COUNT] = call.lm_calls
        if not call.recording:
            return
        record: ModuleRecord = call.state
        program_ended(call)
        if record.usage is not None:
            attributes.update(record.usage.attributes(asynchronous=call.asynchronous))
        if error is not None:
            attributes.update(_failed(call, record, error))

    def passed(self, call: Call) -> None:
        record: ModuleRecord = call.state
        record.attempts = None  # their scores are events of the span that there is not

    def passed_ended(self, call: Call, result: Any, error: BaseException | None) -> None:
        caller = record_of(call.parent)
        if caller is None or caller.agent is None:
            return
        if error is not None:
            caller.agent.record_error(call.instance, error)
        else:
            caller.agent.record_answer(call.instance, call.kwargs, result)


class _Kind(NamedTuple):
    """Properties of a module's class that decide about its spans."""

    name: str
    is_predict: bool
    agent: str | None
    makes_attempts: bool
    is_dspys: bool
    attribute: str
    suffix: str


@cached_by_class
def _kind_of(module_type: type) -> _Kind:
    return _Kind(
        module_type.__name__,
        issubclass(module_type, dspy.Predict),
        agent_kind(module_type),
        makes_attempts(module_type),
        module_type.__module__.partition(".")[0] == "dspy",
        module_type.__name__.lower(),
        f".{module_type.__name__.lower()}",
    )


def _put_path_and_index(call: Call, attributes: Attributes) -> None:
    """Set the path of a module called by another, and the index of its step or attempt."""
    caller = record_of(call.parent)
    if caller is not None and caller.agent is not None:
        step = caller.agent.start_step(call.instance, call.kwargs)
        if step is not None:
            attributes[DSPY_AGENT_STEP_INDEX] = step
    elif caller is not None and caller.attempts is not None:
        attempt = caller.attempts.start_attempt(call.instance)
        if attempt is not None:
            attributes[DSPY_ATTEMPT_INDEX] = attempt
    # An attempt runs a copy of the module, which is not an attribute of the program.
    attempted = DSPY_ATTEMPT_INDEX in attributes
    call.path = _path_of_attempt(call) if attempted else module_path(call)
    if call.path:
        attributes[DSPY_MODULE_PATH] = call.path


def _path_of_attempt(call: Call) -> str:
    path = call.parent.path if call.parent is not None else None
    return f"{path}.module" if path else "module"


def _failed(call: Call, record: ModuleRecord, error: BaseException) -> Attributes:
    caller = record_of(call.parent)
    if caller is not None and caller.agent is not None:
        caller.agent.record_error(call.instance, error)
    if record.agent is not None:
        return record.agent.attributes(None, error)
    return record.attempts.attributes(None) if record.attempts is not None else {}


def _put_invalid_inputs(
    attributes: Attributes, signature: SignatureDescription, given: Mapping[str, Any]
) -> None:
    """Add the names of inputs of a ``Predict`` that are missing, unknown or of another type."""
    if frozenset(given) != signature.input_names:
        if missing := signature.missing_inputs(given):
            attributes[DSPY_MODULE_MISSING_INPUTS] = missing
        if extra := signature.extra_inputs(given):
            attributes[DSPY_MODULE_EXTRA_INPUTS] = extra
    if signature.checks_types and (mistyped := signature.mistyped_inputs(given)):
        attributes[DSPY_MODULE_MISTYPED_INPUTS] = mistyped


def module_path(call: Call) -> str | None:
    """The path of a module in its program, as in ``named_predictors()``; None if unknown.

    It is found through the calling modules. So modules that are not called cost nothing, and the
    path is also found in an optimizer's copies of a program.
    """
    enclosing = _enclosing_module(call)
    while enclosing is not None:
        name = _name_in(enclosing.instance, call.instance)
        if name is not None:
            return f"{enclosing.path}.{name}" if enclosing.path else name
        enclosing = _enclosing_module(enclosing)
    return None


def _enclosing_module(call: Call) -> Call | None:
    operation, parent = call.operation, call.parent
    while parent is not None and parent.operation is not operation:
        parent = parent.parent
    return parent


def _name_in(program: Any, module: Any) -> str | None:
    attributes = instance_dict(program)
    for name, value in attributes.items():
        if value is module:
            return name
    for name, value in attributes.items():
        # The history grows with every LM call, and neither attribute holds modules.
        if name not in NO_MODULES:
            for place, item in items_in(value):
                if item is module:
                    return name + place
    return None


def _signature_of(call: Call, kind: _Kind) -> Any:
    attributes = instance_dict(call.instance)
    if kind.is_predict and "signature" in call.kwargs:
        return call.kwargs["signature"]
    signature: Any = attributes.get("signature")
    if signature is None and not kind.is_predict:
        predict: Any = attributes.get("predict")
        if issubclass(type(predict), dspy.Predict):
            signature = instance_dict(predict).get("signature")  # ChainOfThought
    return signature


def _joined(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def arguments_of(call: Call) -> dict[str, Any]:
    """The arguments of a module's call by name, without credentials."""
    given = dict(call.kwargs) if not call.args else {**positional_arguments(call), **call.kwargs}
    if "config" in given and issubclass(type(call.instance), dspy.Predict):
        given["config"] = without_credentials(given["config"])
    return given
