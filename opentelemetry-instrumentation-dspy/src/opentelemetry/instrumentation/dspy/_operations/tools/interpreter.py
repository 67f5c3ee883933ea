# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Code written by agents: its runs in DSPy's interpreters, and the tools that it calls."""

from __future__ import annotations

import inspect
import types
from collections.abc import Sequence
from typing import Any

import dspy
from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._guarding import pass_on
from opentelemetry.instrumentation.dspy._operations.modules.record import enclosing_agent
from opentelemetry.instrumentation.dspy._operations.tools.legacy_sandbox import tool_calls_patch
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint, Version

_SANDBOX = ("dspy.primitives.python_interpreter", "PythonInterpreter")
_LOCAL = ("dspy.primitives.local_interpreter", "LocalInterpreter")

_NO_TOOLS = "tools called from code get no span, unless they are dspy.Tool"

# Prefix of DSPy's functions that make and call modules, which have spans, for sandboxed code.
_PLUMBING_PREFIX = "__dspy_"
_CLOSURE_DEPTH = 3
_BOTH = ("tool_name", "args", "kwargs")


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of code execution."""
    run, tool = InterpreterOperation(runtime), InterpreterToolOperation(runtime)
    return [
        _point(_SANDBOX, "execute", run, "code run by PythonInterpreter gets no span"),
        tool_calls_patch(tool, _NO_TOOLS),
        _point(_SANDBOX, "invoke_tool", tool, _NO_TOOLS, since=(3, 3, 1)),
        _point(_LOCAL, "execute", run, "code run by LocalInterpreter gets no span", since=(3, 4)),
        _point(_LOCAL, "invoke_tool", tool, _NO_TOOLS, since=(3, 4)),
    ]


def _point(
    target: tuple[str, str], method: str, operation: Operation, effect: str, since: Version = (0,)
) -> ClassTreePatch:
    point = ClassTreePatch(*target, {method: operation}, effect, closure_on_root=True)
    point.since = since
    return point


class InterpreterOperation(Operation):
    """One piece of code run by an interpreter."""

    name = semconv.Operations.INTERPRETER

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings
        # The result of SUBMIT; releases without this class return the value itself.
        self._final = getattr(dspy.primitives, "FinalOutput", None)

    def start(self, call: Call) -> SpanStart:
        kind = type(call.instance).__name__
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.DSPY_INTERPRETER_TYPE: kind,
            semconv.DSPY_INTERPRETER_LANGUAGE: "python",
            **_step(call),
        }
        return f"run_code {kind}", attributes, INTERNAL

    def inputs(self, call: Call, attributes: Attributes) -> None:
        if self._settings.records_inputs:
            code, variables = _arguments(call, "code", "variables")
            given = {"code": code, "variables": variables} if variables else {"code": code}
            self._content.put(attributes, semconv.DSPY_INTERPRETER_INPUT, self.name, given)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        if self._final is not None and isinstance(result, self._final):
            attributes[semconv.DSPY_INTERPRETER_SUBMITTED] = True
            result = result.output
        if self._settings.records_outputs:
            self._content.put(attributes, semconv.DSPY_INTERPRETER_OUTPUT, self.name, result)


class InterpreterToolOperation(Operation):
    """One call of a tool by code that runs in an interpreter."""

    name = semconv.Operations.TOOL

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart | None:
        name = _arguments(call, "tool_name")[0]
        tools = call.instance.tools
        if name not in tools:
            name = "unknown"  # a name invented by generated code is content
        elif name.startswith(_PLUMBING_PREFIX) or _calls_a_tool(tools[name]):
            return None
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.GEN_AI_OPERATION_NAME: semconv.GenAIOperations.EXECUTE_TOOL,
            semconv.GEN_AI_TOOL_NAME: name,
            semconv.GEN_AI_TOOL_TYPE: "function",
            semconv.DSPY_TOOL_SOURCE: "function",
            **_step(call),
        }
        return f"execute_tool {name}", attributes, INTERNAL

    def inputs(self, call: Call, attributes: Attributes) -> None:
        if self._settings.records_inputs:
            self._content.put(
                attributes, semconv.GEN_AI_TOOL_CALL_ARGUMENTS, self.name, _tool_arguments(call)
            )

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        if self._settings.records_outputs:
            self._content.put(attributes, semconv.GEN_AI_TOOL_CALL_RESULT, self.name, result)


def _step(call: Call) -> Attributes:
    """The agent's step that runs the code, as attributes."""
    agent = enclosing_agent(call)
    if agent is None or agent.step_index is None:
        return {}
    return {semconv.DSPY_AGENT_STEP_INDEX: agent.step_index}


def _arguments(call: Call, *names: str) -> list[Any]:
    """The arguments of these names, the first of the signature; None for absent arguments."""
    given = dict(zip(names, call.args, strict=False))
    return [given.get(name, call.kwargs.get(name)) for name in names]


def _tool_arguments(call: Call) -> dict[str, Any]:
    """The tool's arguments: ``kwargs`` in the sandbox, ``args`` and ``kwargs`` in the local one."""
    invoke_tool = getattr(call.instance, "invoke_tool", None)
    # Without such a method, the sandbox passes both args and kwargs.
    names = tuple(inspect.signature(invoke_tool).parameters) if invoke_tool else _BOTH
    given = dict(zip(names, _arguments(call, *names), strict=True))
    named: dict[str, Any] = given["kwargs"] or {}
    positional = given.get("args")
    if not positional:
        return dict(named)
    parameters = _positional_names(call.instance.tools.get(given["tool_name"]))
    rest = list(positional[len(parameters) :])
    shown = {**dict(zip(parameters, positional, strict=False)), **named}
    return {**shown, "args": rest} if rest else shown


def _positional_names(function: Any) -> list[str]:
    """Names of a tool's positional parameters, since secrets are recognised by name."""
    if not isinstance(function, (types.FunctionType, types.MethodType)):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def _calls_a_tool(function: Any, depth: int = _CLOSURE_DEPTH) -> bool:
    """Whether it is a ``dspy.Tool``, or a closure that DSPy made around a Tool."""
    if isinstance(function, dspy.Tool) or isinstance(_bound_to(function), dspy.Tool):
        return True
    if not depth or not _is_made_by_dspy(function):
        return False
    return any(_calls_a_tool(part, depth - 1) for part in _enclosed(function))


def _bound_to(function: Any) -> Any:
    return function.__self__ if isinstance(function, types.MethodType) else None


def _is_made_by_dspy(function: Any) -> bool:
    # Not __module__, which such a closure copies from the tool's function.
    is_function = isinstance(function, types.FunctionType)
    return is_function and str(function.__globals__.get("__name__")).startswith("dspy.")


def _enclosed(function: types.FunctionType) -> list[Any]:
    try:
        return [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError as error:  # a variable that is not assigned yet
        pass_on(error)
        return []
