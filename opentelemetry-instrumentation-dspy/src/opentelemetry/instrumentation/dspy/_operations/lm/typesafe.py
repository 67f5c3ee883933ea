# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of ``dspy.experimental.TypeSafe``: a model for decisions, which is not a ``BaseLM``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import (
    CLIENT,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._content.encoder import to_json
from opentelemetry.instrumentation.dspy._operations.lm.capture import observing_lm
from opentelemetry.instrumentation.dspy._operations.lm.event import with_event
from opentelemetry.instrumentation.dspy._operations.lm.language_model import finish_lm_call
from opentelemetry.instrumentation.dspy._operations.lm.record import LMAnswer, LMRecord
from opentelemetry.instrumentation.dspy._operations.services.endpoint import server_attributes
from opentelemetry.instrumentation.dspy._patching.points import (
    FunctionPatch,
    PatchPoint,
    method_patch,
)
from opentelemetry.instrumentation.dspy._settings import Settings

_MODULE = "dspy.clients.typesafe"
_PARAMETERS = ("state", "questions")


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of TypeSafe calls, which dspy has since 3.4."""
    operation = with_event(TypeSafeOperation, runtime)
    effect = "TypeSafe calls get no span"
    return [
        method_patch(_MODULE, "TypeSafe.__call__", operation, effect, since=(3, 4)),
        method_patch(_MODULE, "TypeSafe.acall", operation, effect, since=(3, 4)),
        FunctionPatch(
            _MODULE,
            "TypeSafe._finish",
            observing_lm(_record_answers),
            "TypeSafe calls have no token usage and do not record whether the cache answered",
            since=(3, 4),
        ),
    ]


class TypeSafeOperation(Operation):
    """One request for decisions, answered by the cache or the service."""

    name = semconv.Operations.LM

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._content = runtime.content
        self._settings = settings

    def start(self, call: Call) -> SpanStart:
        client = call.instance
        call.state = LMRecord()
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.GEN_AI_OPERATION_NAME: semconv.GenAIOperations.CHAT,
            semconv.GEN_AI_PROVIDER_NAME: "typesafe",
            semconv.GEN_AI_REQUEST_MODEL: client.model,
            semconv.DSPY_LM_TYPE: type(client).__name__,
        }
        return f"{semconv.GenAIOperations.CHAT} {client.model}", attributes, CLIENT

    def inputs(self, call: Call, attributes: Attributes) -> None:
        client = call.instance
        self._content.secrets.learn("api_key", client.api_key)
        self._content.secrets.learn("base_url", client.base_url)
        attributes[semconv.DSPY_LM_CACHE_ENABLED] = bool(client.cache)
        attributes.update(server_attributes(client.base_url))
        if self._settings.records_inputs:
            given = {**dict(zip(_PARAMETERS, call.args, strict=False)), **call.kwargs}
            self._content.put(
                attributes, semconv.GEN_AI_INPUT_MESSAGES, self.name, [_message("user", given)]
            )

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        if self._settings.records_outputs:
            self._content.put(
                attributes,
                semconv.GEN_AI_OUTPUT_MESSAGES,
                self.name,
                [{**_message("assistant", result), "finish_reason": "stop"}],
            )

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        attributes.update(finish_lm_call(call, error))


def _message(role: str, data: Any) -> dict[str, Any]:
    # The service has no messages; DSPy's own history shows its calls in this form.
    return {"role": role, "parts": [{"type": "text", "content": to_json(data)}]}


def _record_answers(
    record: LMRecord,
    _client: Any,
    _request: Any,
    response: Any,
    cache_hit: Any,
    *_arguments: Any,
) -> None:
    """``client._finish(request, response, cache_hit)``."""
    answer = LMAnswer(
        bool(cache_hit), usage=response.get("usage"), response_model=response.get("model")
    )
    record.answers.append(answer)
