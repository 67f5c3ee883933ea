# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of ``dspy.Embedder``, one client span for each call, whatever number of batches it makes.

The vectors themselves are never recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence, Sized
from typing import Any, cast

from opentelemetry.instrumentation.dspy._calls.call import (
    CLIENT,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._operations import embedding_record
from opentelemetry.instrumentation.dspy._operations.embedding_record import EmbeddingRecord
from opentelemetry.instrumentation.dspy._operations.lm.capture import current_record
from opentelemetry.instrumentation.dspy._operations.services.endpoint import read_connection
from opentelemetry.instrumentation.dspy._operations.services.model_names import (
    provider_named,
    split_model_name,
)
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.points import PatchPoint
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_EMBEDDER_BATCH_SIZE,
    DSPY_EMBEDDER_CACHE_HIT,
    DSPY_EMBEDDER_INPUT,
    DSPY_EMBEDDER_INPUT_COUNT,
    DSPY_OPERATION,
    GEN_AI_EMBEDDINGS_DIMENSION_COUNT,
    GEN_AI_OPERATION_NAME,
    GEN_AI_PROVIDER_NAME,
    GEN_AI_REQUEST_ENCODING_FORMATS,
    GEN_AI_REQUEST_MODEL,
    GenAIOperations,
    Operations,
)


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of embedder calls."""
    operation = EmbeddingOperation(runtime)
    tree = ClassTreePatch(
        "dspy.clients.embedding",
        "Embedder",
        {"__call__": operation, "acall": operation},
        "embedder calls get no span",
        closure_on_root=True,
    )
    return [tree, *embedding_record.patch_points()]


class EmbeddingOperation(Operation):
    """One call of an embedder, from the cache or from the model."""

    name = Operations.EMBEDDING

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart:
        call.state = EmbeddingRecord()
        provider, model = _provider_and_model(call.instance, call.kwargs)
        attributes: Attributes = {
            DSPY_OPERATION: self.name,
            GEN_AI_OPERATION_NAME: GenAIOperations.EMBEDDINGS,
            GEN_AI_REQUEST_MODEL: model,
        }
        if provider:
            attributes[GEN_AI_PROVIDER_NAME] = provider
        return f"embeddings {model}", attributes, CLIENT

    def inputs(self, call: Call, attributes: Attributes) -> None:
        defaults: dict[str, Any] = getattr(call.instance, "default_kwargs", None) or {}
        parameters = {**defaults, **call.kwargs}
        attributes.update(read_connection(parameters, self._content.secrets))
        encoding = parameters.get("encoding_format")
        if isinstance(encoding, str):
            attributes[GEN_AI_REQUEST_ENCODING_FORMATS] = (encoding,)
        batch_size = _argument(call, 1, "batch_size") or getattr(call.instance, "batch_size", None)
        if isinstance(batch_size, int):
            attributes[DSPY_EMBEDDER_BATCH_SIZE] = batch_size
        inputs = _argument(call, 0, "inputs")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if isinstance(texts, Sized):
            attributes[DSPY_EMBEDDER_INPUT_COUNT] = len(texts)
        if self._settings.records_inputs:
            self._content.put(attributes, DSPY_EMBEDDER_INPUT, self.name, texts)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        # An array of one vector, or of a row for each input.
        shape = getattr(result, "shape", ())
        if shape and shape[-1]:
            attributes[GEN_AI_EMBEDDINGS_DIMENSION_COUNT] = int(shape[-1])

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        record: EmbeddingRecord = call.state
        attributes.update(record.attributes())
        if error is None and record.cache_hit is not None:
            attributes[DSPY_EMBEDDER_CACHE_HIT] = record.cache_hit
        outer = current_record()
        if outer is not None:
            outer.add_inner(attributes)


def _provider_and_model(embedder: Any, kwargs: Mapping[str, Any]) -> tuple[str | None, str]:
    """Of a function, its name: it stands for a model of the program's own."""
    model: Any = getattr(embedder, "model", None)
    if isinstance(model, str):
        options: Mapping[str, Any] = getattr(embedder, "default_kwargs", None) or {}
        given = kwargs.get("custom_llm_provider") or options.get("custom_llm_provider")
        if isinstance(given, str):
            return provider_named(given), model.removeprefix(f"{given}/")
        if "/" in model or model.startswith("text-embedding-"):
            return split_model_name(model)
        return None, model  # LiteLLM knows some of several providers
    return None, _name_of(type(embedder) if model is None else model)


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name_of(cast("Any", function).func)
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _argument(call: Call, position: int, name: str) -> Any:
    return call.args[position] if len(call.args) > position else call.kwargs.get(name)
