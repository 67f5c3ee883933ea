# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The facts of one embedder call that its return value does not have: tokens, model, cost, cache.

They are noted while the call runs, by patches at the places where DSPy has them in hand, into the
record of the call in progress.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opentelemetry.instrumentation.dspy._calls.begin import current_call
from opentelemetry.instrumentation.dspy._calls.call import Attributes, Runtime
from opentelemetry.instrumentation.dspy._calls.frames import as_dspy_frame, hide_frame
from opentelemetry.instrumentation.dspy._operations.reading import value
from opentelemetry.instrumentation.dspy._operations.services.usage import (
    COST_FROM_LITELLM,
    as_count,
    litellm_cost,
)
from opentelemetry.instrumentation.dspy._patching.points import FunctionPatch, PatchPoint
from opentelemetry.instrumentation.dspy._patching.replacements import (
    noting_async_result,
    noting_result,
)
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_LM_COST_SOURCE,
    DSPY_LM_COST_TOTAL,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_USAGE_INPUT_TOKENS,
    Operations,
)

_MODULE = "dspy.clients.embedding"
_COUNTED = {
    "_compute_embeddings": "computed",
    "_acompute_embeddings": "computed",
    "_cached_compute_embeddings": "looked_up",
    "_cached_acompute_embeddings": "looked_up",
}
_WATCHED = frozenset({"embedding", "aembedding"})

_NO_HIT = "embedder calls do not say whether DSPy's cache answered"
_NO_USAGE = "embedder calls have no token usage and no cost"


@dataclass(slots=True)
class EmbeddingRecord:
    """What is known of one embedder call.

    Attributes:
        looked_up: Batches that DSPy's cache was asked for.
        computed: Batches that the model was asked for.
        input_tokens: Tokens of the batches that the model was asked for; None while unknown.
        cost: US dollars for those batches; None while unknown.
        response_model: The model that answered.
    """

    looked_up: int = 0
    computed: int = 0
    input_tokens: int | None = None
    cost: float | None = None
    response_model: str | None = None

    @property
    def cache_hit(self) -> bool | None:
        """Whether DSPy's cache answered for every batch; None where it was not asked."""
        return self.computed == 0 if self.looked_up else None

    def attributes(self) -> Attributes:
        """What the model said; nothing where the cache answered."""
        attributes: Attributes = {}
        if self.response_model:
            attributes[GEN_AI_RESPONSE_MODEL] = self.response_model
        if self.input_tokens is not None:
            attributes[GEN_AI_USAGE_INPUT_TOKENS] = self.input_tokens
        if self.cost is not None:
            attributes[DSPY_LM_COST_TOTAL] = self.cost
            attributes[DSPY_LM_COST_SOURCE] = COST_FROM_LITELLM
        return attributes


def patch_points() -> list[PatchPoint]:
    """Where DSPy has these facts in hand, release by release."""
    return [
        *(FunctionPatch(_MODULE, name, _counting, _NO_HIT) for name in _COUNTED),
        # DSPy keeps nothing of LiteLLM's answers but the vectors.
        FunctionPatch(_MODULE, "litellm", _watching_module, _NO_USAGE, until=(3, 3)),
        FunctionPatch(_MODULE, "_get_litellm", _watching_getter, _NO_USAGE, since=(3, 3)),
    ]


def _counting(original: Any, runtime: Runtime, owner: Any) -> Any:
    absent = [name for name in _COUNTED if not hasattr(owner, name)]
    if absent:
        # What is counted without the others would make every call a cache hit, or none.
        raise AttributeError(f"{_MODULE} has no {', '.join(absent)}")
    name: str = original.__name__
    counter = _COUNTED[name]

    def count(record: EmbeddingRecord, result: Any) -> None:
        setattr(record, counter, getattr(record, counter) + 1)

    return _noting(original, count, asynchronous=name.endswith("acompute_embeddings"))


def _watching_module(litellm: Any, runtime: Runtime, owner: Any) -> Any:
    return _WatchedLiteLLM(litellm)


def _watching_getter(_original: Any, runtime: Runtime, owner: Any) -> Any:
    _hide, _watched = hide_frame, _WatchedLiteLLM

    def get_litellm() -> Any:
        try:
            return _watched(_original())
        except BaseException as _error:
            _hide(_error)
            raise

    return as_dspy_frame(get_litellm, _original)


class _WatchedLiteLLM:
    """The module ``litellm`` as DSPy's embedder sees it; whoever changes it changes the module.

    The module itself stays as it is: it belongs to the program and to other instrumentations.
    """

    __slots__ = ("_litellm",)

    def __init__(self, litellm: Any) -> None:
        object.__setattr__(self, "_litellm", litellm)

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return vars(self._litellm)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._litellm, name)
        if name not in _WATCHED:
            return found
        return _noting(found, _note_response, asynchronous=name == "aembedding")

    def __setattr__(self, name: str, attribute: Any) -> None:
        setattr(self._litellm, name, attribute)

    def __delattr__(self, name: str) -> None:
        delattr(self._litellm, name)


def _note_response(record: EmbeddingRecord, response: Any) -> None:
    tokens = as_count(value(value(response, "usage"), "prompt_tokens"))
    if tokens is not None:
        record.input_tokens = (record.input_tokens or 0) + tokens
    cost = litellm_cost(response)
    if cost is not None:
        record.cost = (record.cost or 0.0) + cost
    model = value(response, "model")
    if isinstance(model, str) and model:
        record.response_model = model


def _noting(
    original: Callable[..., Any],
    note: Callable[[EmbeddingRecord, Any], None],
    *,
    asynchronous: bool,
) -> Any:
    """``original``, with its results shown to ``note`` together with the record of the call."""

    def take(result: Any, *_arguments: Any) -> None:
        call = current_call(Operations.EMBEDDING)
        if call is not None and isinstance(call.state, EmbeddingRecord):
            note(call.state, result)

    return (noting_async_result if asynchronous else noting_result)(original, take)
