# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Definitions of tools as in ``gen_ai.tool.definitions``: type, name, description, parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import dspy
from opentelemetry.instrumentation.dspy._operations.reading import value


def tool_definitions(tools: Any) -> list[Any]:
    """Tools as in ``gen_ai.tool.definitions``; a provider's own tools are named by their type."""
    return [_tool_definition(tool) for tool in tools]


def _tool_definition(tool: Any) -> Any:
    if isinstance(tool, dspy.Tool):
        return definition_of(tool)
    fields = _fields_of_tool(tool)
    function = fields.get("function")
    if isinstance(function, Mapping):  # the format of OpenAI's Chat Completions
        return _named({"type": "function", **cast("Mapping[str, Any]", function)})
    if "input_schema" in fields:  # the format of Anthropic
        fields["parameters"] = fields.pop("input_schema")
    return _named({**fields, "type": fields.get("type") or "function"})


def definition_of(tool: Any) -> dict[str, Any]:
    """The definition of a ``dspy.Tool``."""
    definition: dict[str, Any] = {"type": "function", "name": str(tool.name)}
    if tool.desc:
        definition["description"] = str(tool.desc)
    if tool.args:
        definition["parameters"] = schema_of(tool.args)
    return definition


def schema_of(args: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of the arguments of a ``dspy.Tool``."""
    required = [name for name, schema in args.items() if "default" not in schema]
    return {"type": "object", "properties": args, "required": required}


def _fields_of_tool(tool: Any) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        return dict(cast("Mapping[str, Any]", tool))
    if isinstance(tool, str):  # some providers know tools by name alone
        return {"type": tool}
    known = {name: value(tool, name) for name in _TOOL_FIELDS}
    return {name: field for name, field in known.items() if field is not None}


_TOOL_FIELDS = ("type", "name", "description", "parameters", "strict", "config")


def _named(definition: dict[str, Any]) -> dict[str, Any]:
    if isinstance(definition.get("name"), str):
        return definition
    label = definition.get("server_label")  # of an MCP server, of which there may be several
    name = label if isinstance(label, str) else str(definition["type"])
    return {"type": definition["type"], "name": name, **_without(definition, ("type", "name"))}


def _without(fields: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: field for name, field in fields.items() if name not in names}
