# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""One fixed value that a JSON schema accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCALARS: dict[str, Any] = {"integer": 1, "number": 0.5, "boolean": True, "null": None}


def sample(schema: Mapping[str, Any], name: str) -> Any:
    """A value for ``schema``; texts are made from ``name``.

    Knows what pydantic writes for common Python types: objects, arrays, scalars, ``enum``,
    ``const``, ``anyOf`` and ``$ref`` into ``$defs``. Optional values are filled, mappings empty.
    """
    return _sample(schema, name, schema.get("$defs", {}))


def _sample(schema: Mapping[str, Any], name: str, definitions: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _sample(definitions[schema["$ref"].rsplit("/", 1)[-1]], name, definitions)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    choices = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if choices:
        return _sample(choices[0], name, definitions)
    return _of_type(schema, name, definitions)


def _of_type(schema: Mapping[str, Any], name: str, definitions: Mapping[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "object":
        properties: Mapping[str, Any] = schema.get("properties", {})
        return {key: _sample(value, key, definitions) for key, value in properties.items()}
    if kind == "array":
        return [_sample(schema.get("items", {}), name, definitions)]
    return _SCALARS.get(str(kind), f"{name} value")
