# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of ``dspy.Tool``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import (
    INTERNAL,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._content.jsonable import valid_text
from opentelemetry.instrumentation.dspy._content.redaction import is_secret_key
from opentelemetry.instrumentation.dspy._operations.modules.record import enclosing_agent
from opentelemetry.instrumentation.dspy._operations.services.tool_definitions import schema_of
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint, method_patch

_MODULE = "dspy.adapters.types.tool"
_SOURCES = {"dspy.utils.mcp": "mcp", "dspy.utils.langchain_tool": "langchain"}


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of tool calls."""
    operation = ToolOperation(runtime)
    effect = "tool calls get no span"
    return [
        method_patch(_MODULE, "Tool.__call__", operation, effect),
        method_patch(_MODULE, "Tool.acall", operation, effect),
    ]


class ToolOperation(Operation):
    """One call of a tool."""

    name = semconv.Operations.TOOL

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart | None:
        tool = call.instance
        agent = enclosing_agent(call)
        if agent is not None and agent.ends_with(tool):
            return None  # the agent's way to end, not a tool
        name = valid_text(str(tool.name))
        source = getattr(tool.func, "__module__", None) or ""
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.GEN_AI_OPERATION_NAME: semconv.GenAIOperations.EXECUTE_TOOL,
            semconv.GEN_AI_TOOL_NAME: name,
            semconv.GEN_AI_TOOL_TYPE: "function",
            semconv.DSPY_TOOL_SOURCE: _SOURCES.get(source, "function"),
        }
        if agent is not None:
            call_id, step = agent.pop_tool_call_id(str(tool.name)), agent.step_index
            if call_id is not None:
                attributes[semconv.GEN_AI_TOOL_CALL_ID] = call_id
            if step is not None:
                attributes[semconv.DSPY_AGENT_STEP_INDEX] = step
        return f"execute_tool {name}", attributes, INTERNAL

    def inputs(self, call: Call, attributes: Attributes) -> None:
        tool = call.instance
        if tool.desc:
            put_text = self._content.put_text
            put_text(attributes, semconv.GEN_AI_TOOL_DESCRIPTION, self.name, str(tool.desc))
        if tool.args:
            self._content.arguments.learn(tool.args)
        if self._settings.content_mode.in_spans and tool.args:
            schema = schema_of(tool.args)
            self._content.put(attributes, semconv.DSPY_TOOL_SCHEMA, self.name, schema, as_one=True)
        if self._settings.records_inputs:
            arguments = dict(call.kwargs)
            self._learn_secrets(arguments)
            self._content.put(attributes, semconv.GEN_AI_TOOL_CALL_ARGUMENTS, self.name, arguments)

    def _learn_secrets(self, arguments: dict[str, Any]) -> None:
        for name, argument in arguments.items():
            if is_secret_key(name):  # the tool's errors may repeat it
                self._content.secrets.learn(name, argument)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        if self._settings.records_outputs:
            self._content.put(attributes, semconv.GEN_AI_TOOL_CALL_RESULT, self.name, result)
