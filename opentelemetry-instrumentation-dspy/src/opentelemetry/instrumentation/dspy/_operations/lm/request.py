# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The request of an LM call: its parameters as attributes, without secrets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import Attributes
from opentelemetry.instrumentation.dspy._content.redaction import (
    KnownSecrets,
)
from opentelemetry.instrumentation.dspy._operations.lm.messages import explicit_request
from opentelemetry.instrumentation.dspy._operations.reading import value
from opentelemetry.instrumentation.dspy._operations.services.endpoint import (
    ADDRESSES,
    is_connection,
    server_attributes,
    without_credential,
)

_FLOATS = {
    "temperature": semconv.GEN_AI_REQUEST_TEMPERATURE,
    "top_p": semconv.GEN_AI_REQUEST_TOP_P,
    "top_k": semconv.GEN_AI_REQUEST_TOP_K,
    "frequency_penalty": semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.GEN_AI_REQUEST_PRESENCE_PENALTY,
}
_INTEGERS = {
    "max_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.GEN_AI_REQUEST_MAX_TOKENS,
    "seed": semconv.GEN_AI_REQUEST_SEED,
    "rollout_id": semconv.DSPY_LM_ROLLOUT_ID,
}
# Of the Responses API, of Anthropic and of Gemini.
_INSTRUCTIONS = frozenset({"instructions", "system", "system_instruction"})
# Parts of the call, not of the request, or recorded in attributes of their own.
_NOT_PARAMETERS = frozenset({"prompt", "messages", "request", "model", "cache", "tools"})


@dataclasses.dataclass(slots=True)
class RequestDescription:
    """The request of one LM call.

    Attributes:
        attributes: The parameters in the GenAI conventions, with the types of the conventions.
        others: The other parameters.
        tools: The tools offered to the model.
        instructions: Instructions that are given apart from the messages.
    """

    attributes: Attributes
    others: dict[str, Any]
    tools: Any = None
    instructions: Any = None


def read_request(
    lm: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], secrets: KnownSecrets
) -> RequestDescription:
    """The request of a call of ``lm``; remembers its credentials and headers as secrets."""
    description = RequestDescription({}, {})
    defaults: Mapping[str, Any] = getattr(lm, "kwargs", None) or {}
    request = explicit_request(args, kwargs)
    if request is None:
        parameters = {**defaults, **kwargs}
        description.tools = parameters.get("tools")
    else:
        # For a request object, only the connection is taken from the LM's own parameters.
        connection = {name: defaults[name] for name in defaults if is_connection(name)}
        parameters = {**connection, **_fields(value(request, "config")), **kwargs}
        description.tools = value(request, "tools")
        description.instructions = value(request, "system")
    for name, parameter in parameters.items():
        if parameter is not None and name not in _NOT_PARAMETERS:
            _read(description, name, parameter, secrets)
    return description


def _read(
    description: RequestDescription, name: str, parameter: Any, secrets: KnownSecrets
) -> None:
    attributes = description.attributes
    if name in _FLOATS and _is_number(parameter):
        attributes[_FLOATS[name]] = float(parameter)
    elif name in _INTEGERS and isinstance(parameter, int) and not isinstance(parameter, bool):
        attributes[_INTEGERS[name]] = parameter
    elif name == "n" and isinstance(parameter, int):
        if parameter != 1:
            attributes[semconv.GEN_AI_REQUEST_CHOICE_COUNT] = parameter
    elif name == "stop" and isinstance(parameter, (str, list, tuple)):
        _put_stop_sequences(attributes, parameter)
    elif is_connection(name):
        secrets.learn(name, parameter)
        if name in ADDRESSES:
            attributes.update(server_attributes(parameter))
    elif name in _INSTRUCTIONS:
        description.instructions = parameter
    elif name == "conversation":
        _put_conversation(attributes, parameter)
    else:
        if name == "response_format":
            attributes[semconv.GEN_AI_OUTPUT_TYPE] = _output_type(parameter)
        description.others[name] = without_credential(name, parameter)


def _put_stop_sequences(attributes: Attributes, given: Any) -> None:
    stops = (given,) if isinstance(given, str) else cast("list[Any]", given)
    if stops:
        attributes[semconv.GEN_AI_REQUEST_STOP_SEQUENCES] = tuple(str(stop) for stop in stops)


def _put_conversation(attributes: Attributes, parameter: Any) -> None:
    conversation = parameter if isinstance(parameter, str) else value(parameter, "id")
    if isinstance(conversation, str):
        attributes[semconv.GEN_AI_CONVERSATION_ID] = conversation


def _is_number(parameter: Any) -> bool:
    return isinstance(parameter, (int, float)) and not isinstance(parameter, bool)


def _output_type(response_format: Any) -> str:
    # A class describes the JSON object of the response.
    return "text" if value(response_format, "type") == "text" else "json"


def _fields(config: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(config):
        names = [field.name for field in dataclasses.fields(config)]
        found = {name: getattr(config, name) for name in names}
    else:
        found = dict(getattr(config, "__dict__", {}))
    # Parameters in "extensions" are sent like all others.
    extensions = found.pop("extensions", None)
    return {**found, **(extensions if isinstance(extensions, Mapping) else {})}
