# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of language models: one client span for each call of a ``dspy.BaseLM``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from opentelemetry import baggage

import dspy
from opentelemetry.instrumentation.dspy._calls.call import (
    CLIENT,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._guarding import new_lock
from opentelemetry.instrumentation.dspy._operations.evaluation.results import ExampleRecord
from opentelemetry.instrumentation.dspy._operations.lm import capture, chunks
from opentelemetry.instrumentation.dspy._operations.lm.event import with_event
from opentelemetry.instrumentation.dspy._operations.lm.messages import (
    input_messages,
    may_have_data_uri,
    output_messages,
    text_only_messages,
)
from opentelemetry.instrumentation.dspy._operations.lm.parts import parts_of
from opentelemetry.instrumentation.dspy._operations.lm.record import LMRecord
from opentelemetry.instrumentation.dspy._operations.lm.request import (
    RequestDescription,
    read_request,
)
from opentelemetry.instrumentation.dspy._operations.services.model_names import (
    provider_named,
    split_model_name,
)
from opentelemetry.instrumentation.dspy._operations.services.tool_definitions import (
    tool_definitions,
)
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint
from opentelemetry.instrumentation.dspy._settings import Settings
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_LM_CACHE_ENABLED,
    DSPY_LM_MODEL_TYPE,
    DSPY_LM_PARAMETERS,
    DSPY_LM_RETRY_MAX,
    DSPY_LM_TYPE,
    DSPY_OPERATION,
    GEN_AI_CONVERSATION_ID,
    GEN_AI_INPUT_MESSAGES,
    GEN_AI_OPERATION_NAME,
    GEN_AI_OUTPUT_MESSAGES,
    GEN_AI_PROVIDER_NAME,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_RESPONSE_ID,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_SYSTEM_INSTRUCTIONS,
    GEN_AI_TOOL_DEFINITIONS,
    GenAIOperations,
    Operations,
)

_count_lock = new_lock()
# An LM that overrides one of these, such as DummyLM up to 3.1, may bypass the cache.
_CACHING = ("__call__", "acall", "forward", "aforward")


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of LM calls."""
    operation = with_event(LMOperation, runtime)
    tree = ClassTreePatch(
        "dspy.clients.base_lm",
        "BaseLM",
        {"__call__": operation, "acall": operation},
        "LM calls get no span",
        closure_on_root=True,
        # A proxy that calls the host's LM, which has its own span.
        skip=frozenset({"SandboxLM"}),
    )
    return [tree, *capture.patch_points(), *chunks.patch_points()]


class LMOperation(Operation):
    """One call of an LM, answered by the cache or the provider, including retries."""

    name = Operations.LM

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        self._content = runtime.content
        self._settings = settings

    def start(self, call: Call) -> SpanStart:
        lm = call.instance
        call.state = LMRecord()
        model_type = getattr(lm, "model_type", "chat")
        operation = (
            GenAIOperations.TEXT_COMPLETION if model_type == "text" else GenAIOperations.CHAT
        )
        provider, model = split_model(lm, call.kwargs)
        attributes: Attributes = {
            DSPY_OPERATION: self.name,
            GEN_AI_OPERATION_NAME: operation,
            GEN_AI_REQUEST_MODEL: model,
            DSPY_LM_TYPE: type(lm).__name__,
            DSPY_LM_MODEL_TYPE: str(model_type),
        }
        if provider:
            attributes[GEN_AI_PROVIDER_NAME] = provider
        return f"{operation} {model}", attributes, CLIENT

    def inputs(self, call: Call, attributes: Attributes) -> None:
        lm = call.instance
        request = read_request(lm, call.args, call.kwargs, self._content.secrets)
        conversation = baggage.get_baggage(GEN_AI_CONVERSATION_ID, call.before)
        if conversation is not None:
            attributes[GEN_AI_CONVERSATION_ID] = str(conversation)
        attributes.update(request.attributes)
        cached = _is_cached(call)
        if cached is not None:
            attributes[DSPY_LM_CACHE_ENABLED] = cached
        retries = getattr(lm, "num_retries", None)
        if isinstance(lm, dspy.LM) and isinstance(retries, int):
            attributes[DSPY_LM_RETRY_MAX] = retries
        if self._settings.records_inputs:
            self._put_content(attributes, call, request)

    def _put_content(self, attributes: Attributes, call: Call, request: RequestDescription) -> None:
        put, name = self._content.put, self.name
        text_only = text_only_messages(call.args, call.kwargs)
        if text_only is not None:
            self._content.put_jsonable(attributes, GEN_AI_INPUT_MESSAGES, name, *text_only)
        else:
            messages = input_messages(call.args, call.kwargs, self._content.shortened)
            put(attributes, GEN_AI_INPUT_MESSAGES, name, messages)
        if request.instructions:
            instructions = parts_of(request.instructions, self._content.shortened)
            put(attributes, GEN_AI_SYSTEM_INSTRUCTIONS, name, instructions)
        if request.tools:
            put(attributes, GEN_AI_TOOL_DEFINITIONS, name, tool_definitions(request.tools))
        if request.others:
            put(attributes, DSPY_LM_PARAMETERS, name, request.others)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        if self._settings.records_outputs:
            record: LMRecord = call.state
            messages = output_messages(result, record.finish_reasons, self._content.shortened)
            size = _size_of_texts(result)
            if size is not None:
                self._content.put_jsonable(
                    attributes, GEN_AI_OUTPUT_MESSAGES, self.name, messages, size
                )
            else:
                self._content.put(attributes, GEN_AI_OUTPUT_MESSAGES, self.name, messages)

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        attributes.update(finish_lm_call(call, error))


_FAILED = ("error",)


def _is_cached(call: Call) -> bool | None:
    """Whether this call uses DSPy's cache; None if that is not known."""
    lm = call.instance
    if not isinstance(lm, dspy.LM):
        return None  # DSPy only caches calls of its own LM; ``cache`` of another LM has no effect
    if not call.kwargs.get("cache", lm.cache):
        return False
    kind: type[Any] = type(lm)  # type: ignore[reportUnknownVariableType]
    if any(getattr(kind, name) is not getattr(dspy.LM, name) for name in _CACHING):
        return None
    cache = dspy.cache
    tiers = (getattr(cache, f"enable_{tier}_cache", True) for tier in ("memory", "disk"))
    return any(tiers)


def _size_of_texts(result: Any) -> int | None:
    """Number of characters in a result that is a list of texts, as usual; else None."""
    if type(result) is not list:
        return None
    size = 0
    for text in cast("list[Any]", result):
        if type(text) is not str or may_have_data_uri(text):
            return None
        size += len(text)
    return size


def split_model(lm: Any, kwargs: Mapping[str, Any]) -> tuple[str | None, str]:
    """Provider and model of an LM call; ``openai/gpt-4o-mini`` is the model ``gpt-4o-mini``.

    Only names of ``dspy.LM`` have this format; the names of other LMs are not parsed.
    """
    # A call may override the model.
    model = str(kwargs.get("model") or getattr(lm, "model", None) or type(lm).__name__)
    if not isinstance(lm, dspy.LM):
        return None, model
    options: dict[str, Any] = lm.kwargs or {}
    given = kwargs.get("custom_llm_provider") or options.get("custom_llm_provider")
    if isinstance(given, str):  # LiteLLM then accepts the name with or without prefix
        return provider_named(given), model.removeprefix(f"{given}/")
    return split_model_name(model)


def finish_lm_call(call: Call, error: BaseException | None) -> Attributes:
    """Count a finished LM call in all calls around it; returns its data as attributes."""
    outer, example = _count_in_modules(call)
    record: LMRecord = call.state
    attributes = record.attributes()
    if example is not None and not example.scoring:
        example.response_id = attributes.get(GEN_AI_RESPONSE_ID, example.response_id)
    if isinstance(error, Exception) and GEN_AI_RESPONSE_FINISH_REASONS not in attributes:
        attributes[GEN_AI_RESPONSE_FINISH_REASONS] = _FAILED
    answered = attributes.get(GEN_AI_RESPONSE_MODEL)
    if answered is not None and "/" in answered:
        asked: str = call.start_attributes[GEN_AI_REQUEST_MODEL]
        named = str(getattr(call.instance, "model", ""))
        attributes[GEN_AI_RESPONSE_MODEL] = _without_prefix(answered, asked, named)
    if outer is not None:
        outer.add_inner(attributes, record.inner)
    return attributes


def _without_prefix(answered: str, asked: str, named: str) -> str:
    """The model that answered, without the prefix that LiteLLM adds for some providers.

    Args:
        answered: The model in the response.
        asked: The model in the request, without the prefix.
        named: The name of the LM.
    """
    prefix = named.removesuffix(asked)
    # For ``openai/openai/gpt-oss-20b``, the name of the model itself begins like a prefix.
    return answered if answered == asked or prefix == named else answered.removeprefix(prefix)


def _count_in_modules(call: Call) -> tuple[LMRecord | None, ExampleRecord | None]:
    """Count the call in the calls around it.

    Returns:
        The records of the enclosing LM call and of the enclosing example of an evaluation.
    """
    parent = call.parent
    outer: LMRecord | None = None
    example: ExampleRecord | None = None
    with _count_lock:
        while parent is not None:
            parent.lm_calls += 1
            if outer is None and type(parent.state) is LMRecord:
                outer = parent.state
                outer.add_nested(call.state, parent.instance is call.instance)
            elif type(parent.state) is ExampleRecord:
                example = parent.state
            parent = parent.parent
    return outer, example
