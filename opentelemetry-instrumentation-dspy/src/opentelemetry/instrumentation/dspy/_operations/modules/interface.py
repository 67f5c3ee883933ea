# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration, types and messages of a module: how it was asked, beside its values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import orjson

import dspy
from opentelemetry.instrumentation.dspy._calls.by_class import cached_by_class
from opentelemetry.instrumentation.dspy._operations.reading import instance_dict
from opentelemetry.instrumentation.dspy._operations.services.endpoint import without_credentials

_MAX_TYPES = 64
_NUMBERS = (bool, int, float)


def config_of(module: Any, *, strings: bool) -> dict[str, Any]:
    """The options that one of DSPy's own modules was constructed with; usually empty.

    Args:
        module: The module. For a class of the program that derives from one of DSPy's modules, the
            options of that module.
        strings: Whether texts may be recorded.
    """
    kinds = (*_NUMBERS, str) if strings else _NUMBERS
    own = instance_dict(module)
    config: dict[str, Any] = {}
    module_type: type[Any] = type(module)  # type: ignore[reportUnknownVariableType]
    for name in _options_of(module_type):
        option = own.get(name)
        if isinstance(option, kinds):
            config[name] = option
    if issubclass(module_type, dspy.Predict):
        given = own.get("config")
        if given and isinstance(given, Mapping):
            options = cast("Mapping[str, Any]", without_credentials(given))
            config.update(
                {key: item for key, item in options.items() if strings or isinstance(item, kinds)}
            )
    return config


@cached_by_class
def _options_of(module_type: type) -> tuple[str, ...]:
    """Names of the parameters of the constructor of the nearest class of DSPy."""
    for kind in module_type.__mro__:
        own: Any = vars(kind).get("__init__")
        if kind is dspy.Module or own is None or not kind.__module__.startswith("dspy."):
            continue
        parameters = list(inspect.signature(own).parameters.values())[1:]
        named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return tuple(name for name in named if not name.startswith("_"))
    return ()


def types_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Each name with the class of its value."""
    return tuple(
        f"{name}: {type(value).__name__}" for name, value in list(values.items())[:_MAX_TYPES]
    )


def result_types(result: Any) -> tuple[str, ...]:
    """The fields of a prediction with the classes of their values; else the class of the result."""
    if issubclass(type(result), dspy.Prediction):
        fields = instance_dict(result).get("_store")
        if isinstance(fields, dict):
            return types_of(cast("dict[str, Any]", fields))
    return (type(result).__name__,)


def message_of(role: str, recorded: str) -> dict[str, Any]:
    """A message with the inputs or outputs of an agent, from their recorded JSON.

    The only field of a record, if it is a text, is the text of the message.
    """
    text = recorded
    fields: Any = orjson.loads(recorded)
    if type(fields) is dict and len(cast("dict[str, Any]", fields)) == 1:
        (only,) = cast("dict[str, Any]", fields).values()
        text = only if type(only) is str else recorded
    return {"role": role, "parts": [{"type": "text", "content": text}]}
