# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls of ``dspy.Embedder``: one client span for each call, for any number of batches.

The vectors themselves are never recorded. Tokens, model, cost and cache hits are not part of the
result. Patches record them during the call, in the record of the call in progress.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.begin import current_call
from opentelemetry.instrumentation.dspy._calls.call import (
    CLIENT,
    Attributes,
    Call,
    Operation,
    Runtime,
    SpanStart,
)
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._operations.lm.capture import current_record
from opentelemetry.instrumentation.dspy._operations.reading import value
from opentelemetry.instrumentation.dspy._operations.services.endpoint import read_connection
from opentelemetry.instrumentation.dspy._operations.services.model_names import (
    provider_named,
    split_model_name,
)
from opentelemetry.instrumentation.dspy._operations.services.usage import (
    COST_FROM_LITELLM,
    as_count,
    litellm_cost,
)
from opentelemetry.instrumentation.dspy._patching.class_trees import ClassTreePatch
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch, PatchPoint
from opentelemetry.instrumentation.dspy._patching.replacements import (
    observe_async_result,
    observe_result,
)

_MODULE = "dspy.clients.embedding"
_COUNTED = {
    "_compute_embeddings": "computed",
    "_acompute_embeddings": "computed",
    "_cached_compute_embeddings": "looked_up",
    "_cached_acompute_embeddings": "looked_up",
}
_OBSERVED = frozenset({"embedding", "aembedding"})

_NO_HIT = "embedder calls do not record whether DSPy's cache answered"
_NO_USAGE = "embedder calls have no token usage and no cost"


def patch_points(runtime: Runtime) -> Sequence[PatchPoint]:
    """The patch points of embedder calls."""
    operation = EmbeddingOperation(runtime)
    tree = ClassTreePatch(
        _MODULE,
        "Embedder",
        {"__call__": operation, "acall": operation},
        "embedder calls get no span",
        closure_on_root=True,
    )
    return [
        tree,
        *(FunctionPatch(_MODULE, name, _counting, _NO_HIT) for name in _COUNTED),
        # DSPy keeps only the vectors of LiteLLM's responses.
        FunctionPatch(_MODULE, "litellm", _observing_module, _NO_USAGE, until=(3, 3)),
        FunctionPatch(_MODULE, "_get_litellm", _observing_getter, _NO_USAGE, since=(3, 3)),
    ]


@dataclass(slots=True)
class EmbeddingRecord:
    """The data of one embedder call.

    Attributes:
        looked_up: Number of batches looked up in DSPy's cache.
        computed: Number of batches sent to the model.
        input_tokens: Tokens of the batches sent to the model; None if unknown.
        cost: US dollars for those batches; None if unknown.
        response_model: The model that answered.
    """

    looked_up: int = 0
    computed: int = 0
    input_tokens: int | None = None
    cost: float | None = None
    response_model: str | None = None

    @property
    def cache_hit(self) -> bool | None:
        """Whether all batches came from DSPy's cache; None if it was not used."""
        return self.computed == 0 if self.looked_up else None

    def attributes(self) -> Attributes:
        """The data of the model's responses; empty if the cache answered."""
        attributes: Attributes = {}
        if self.response_model:
            attributes[semconv.GEN_AI_RESPONSE_MODEL] = self.response_model
        if self.input_tokens is not None:
            attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS] = self.input_tokens
        if self.cost is not None:
            attributes[semconv.DSPY_LM_COST_TOTAL] = self.cost
            attributes[semconv.DSPY_LM_COST_SOURCE] = COST_FROM_LITELLM
        return attributes


class EmbeddingOperation(Operation):
    """One call of an embedder, from the cache or from the model."""

    name = semconv.Operations.EMBEDDING

    def __init__(self, runtime: Runtime) -> None:
        self._content = runtime.content
        self._settings = runtime.settings

    def start(self, call: Call) -> SpanStart:
        call.state = EmbeddingRecord()
        provider, model = _provider_and_model(call.instance, call.kwargs)
        attributes: Attributes = {
            semconv.DSPY_OPERATION: self.name,
            semconv.GEN_AI_OPERATION_NAME: semconv.GenAIOperations.EMBEDDINGS,
            semconv.GEN_AI_REQUEST_MODEL: model,
        }
        if provider:
            attributes[semconv.GEN_AI_PROVIDER_NAME] = provider
        return f"embeddings {model}", attributes, CLIENT

    def inputs(self, call: Call, attributes: Attributes) -> None:
        defaults: dict[str, Any] = getattr(call.instance, "default_kwargs", None) or {}
        parameters = {**defaults, **call.kwargs}
        attributes.update(read_connection(parameters, self._content.secrets))
        encoding = parameters.get("encoding_format")
        if isinstance(encoding, str):
            attributes[semconv.GEN_AI_REQUEST_ENCODING_FORMATS] = (encoding,)
        batch_size = _argument(call, 1, "batch_size") or getattr(call.instance, "batch_size", None)
        if isinstance(batch_size, int):
            attributes[semconv.DSPY_EMBEDDER_BATCH_SIZE] = batch_size
        inputs = _argument(call, 0, "inputs")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if isinstance(texts, Sized):
            attributes[semconv.DSPY_EMBEDDER_INPUT_COUNT] = len(texts)
        if self._settings.records_inputs:
            self._content.put(attributes, semconv.DSPY_EMBEDDER_INPUT, self.name, texts)

    def outputs(self, call: Call, result: Any, attributes: Attributes) -> None:
        # An array with one vector, or with one row for each input.
        shape = getattr(result, "shape", ())
        if shape and shape[-1]:
            attributes[semconv.GEN_AI_EMBEDDINGS_DIMENSION_COUNT] = int(shape[-1])

    def ended(self, call: Call, error: BaseException | None, attributes: Attributes) -> None:
        record: EmbeddingRecord = call.state
        attributes.update(record.attributes())
        if error is None and record.cache_hit is not None:
            attributes[semconv.DSPY_EMBEDDER_CACHE_HIT] = record.cache_hit
        outer = current_record()
        if outer is not None:
            outer.add_inner(attributes)


def _provider_and_model(embedder: Any, kwargs: Mapping[str, Any]) -> tuple[str | None, str]:
    """Provider and model; for a function, its name, as the name of the program's own model."""
    model: Any = getattr(embedder, "model", None)
    if isinstance(model, str):
        options: Mapping[str, Any] = getattr(embedder, "default_kwargs", None) or {}
        given = kwargs.get("custom_llm_provider") or options.get("custom_llm_provider")
        if isinstance(given, str):
            return provider_named(given), model.removeprefix(f"{given}/")
        if "/" in model or model.startswith("text-embedding-"):
            return split_model_name(model)
        return None, model  # LiteLLM may know this name from several providers
    return None, _name_of(type(embedder) if model is None else model)


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name_of(cast("Any", function).func)
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _argument(call: Call, position: int, name: str) -> Any:
    return call.args[position] if len(call.args) > position else call.kwargs.get(name)


def _counting(original: Any, runtime: Runtime, owner: Any) -> Any:
    absent = [name for name in _COUNTED if not hasattr(owner, name)]
    if absent:
        # With a part of the counters, every call would be a cache hit, or no call would.
        raise AttributeError(f"{_MODULE} has no {', '.join(absent)}")
    name: str = original.__name__
    counter = _COUNTED[name]

    def count(record: EmbeddingRecord, result: Any) -> None:
        setattr(record, counter, getattr(record, counter) + 1)

    return _observed(original, count, asynchronous=name.endswith("acompute_embeddings"))


def _observing_module(litellm: Any, runtime: Runtime, owner: Any) -> Any:
    return _ObservedLiteLLM(litellm)


def _observing_getter(_original: Any, runtime: Runtime, owner: Any) -> Any:
    _hide, _observed_module = hide_frame, _ObservedLiteLLM

    def get_litellm() -> Any:
        try:
            return _observed_module(_original())
        except BaseException as _error:
            _hide(_error)
            raise

    return as_dspy_frame(get_litellm, _original)


class _ObservedLiteLLM:
    """The module ``litellm`` as DSPy's embedder sees it; attributes are set on the module itself.

    The module is not patched, since the program and other instrumentations use it as well.
    """

    __slots__ = ("_litellm",)

    def __init__(self, litellm: Any) -> None:
        object.__setattr__(self, "_litellm", litellm)

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return vars(self._litellm)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._litellm, name)
        if name not in _OBSERVED:
            return found
        return _observed(found, _record_response, asynchronous=name == "aembedding")

    def __setattr__(self, name: str, attribute: Any) -> None:
        setattr(self._litellm, name, attribute)

    def __delattr__(self, name: str) -> None:
        delattr(self._litellm, name)


def _record_response(record: EmbeddingRecord, response: Any) -> None:
    tokens = as_count(value(value(response, "usage"), "prompt_tokens"))
    if tokens is not None:
        record.input_tokens = (record.input_tokens or 0) + tokens
    cost = litellm_cost(response)
    if cost is not None:
        record.cost = (record.cost or 0.0) + cost
    model = value(response, "model")
    if isinstance(model, str) and model:
        record.response_model = model


def _observed(
    original: Callable[..., Any],
    observe: Callable[[EmbeddingRecord, Any], None],
    *,
    asynchronous: bool,
) -> Any:
    """``original``, with ``observe(record, result)`` after each call."""

    def take(result: Any, *_arguments: Any) -> None:
        call = current_call(semconv.Operations.EMBEDDING)
        if call is not None and isinstance(call.state, EmbeddingRecord):
            observe(call.state, result)

    return (observe_async_result if asynchronous else observe_result)(original, take)
