# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The facts of one LM call that its return value does not have: usage, model, cost, cache.

They are noted while the call runs, by patches at the places where DSPy has them in hand, into the
record of the call in progress. The LM's history is never read: under concurrency its last entry
belongs to another call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.instrumentation.dspy.operations.messages import value
from opentelemetry.instrumentation.dspy.patching import FunctionPatch, PatchPoint
from opentelemetry.instrumentation.dspy.semconv import (
    DSPY_LM_CACHE_HIT,
    DSPY_LM_CACHE_TIER,
    DSPY_LM_COST_SOURCE,
    DSPY_LM_COST_TOTAL,
    DSPY_LM_RETRY_COUNT,
    DSPY_STREAM_CHUNK_COUNT,
    GEN_AI_REQUEST_STREAM,
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_RESPONSE_ID,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK,
    GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS,
    GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    GEN_AI_USAGE_REASONING_OUTPUT_TOKENS,
    Operations,
)
from opentelemetry.instrumentation.dspy.tracing import (
    Attributes,
    Runtime,
    as_dspy_frame,
    current_call,
    guarded,
    hide_frame,
)

COST_FROM_DSPY = "dspy"
COST_FROM_LITELLM = "litellm"

_NO_FACTS = "LM calls have no token usage, response id, finish reasons or cost"


@dataclass(slots=True)
class LMRecord:
    """What is known of one LM call.

    Attributes:
        cache_hit: Whether DSPy's cache answered; None while unknown.
        cache_tier: ``memory`` or ``disk``: where the answer lies if it is a hit.
        usage: Token counts as DSPy or the provider names them.
        cost: US dollars.
        cost_source: Whose price table the cost is from.
        response_id: The provider's id of the response.
        response_model: The model that answered.
        finish_reasons: One for each choice.
        retries: How often DSPy tried again.
        chunks: How many chunks a streamed response had so far.
        time_to_first_chunk: Seconds from the start of the call; None while nothing is streamed.
    """

    cache_hit: bool | None = None
    cache_tier: str | None = None
    usage: Any = None
    cost: float | None = None
    cost_source: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    retries: int = 0
    chunks: int = 0
    time_to_first_chunk: float | None = None
    _started_ns: int = field(default_factory=time.perf_counter_ns)

    def note_chunk(self) -> None:
        """Note that a chunk came."""
        self.chunks += 1
        if self.time_to_first_chunk is None:
            self.time_to_first_chunk = (time.perf_counter_ns() - self._started_ns) / 1e9

    def attributes(self) -> Attributes:
        """The record as span attributes: on a cache hit neither usage nor cost."""
        attributes: Attributes = {}
        if self.response_id:
            attributes[GEN_AI_RESPONSE_ID] = self.response_id
        if self.response_model:
            attributes[GEN_AI_RESPONSE_MODEL] = self.response_model
        if self.finish_reasons:
            attributes[GEN_AI_RESPONSE_FINISH_REASONS] = self.finish_reasons
        if self.retries:
            attributes[DSPY_LM_RETRY_COUNT] = self.retries
        if self.time_to_first_chunk is not None:
            attributes[GEN_AI_REQUEST_STREAM] = True
            attributes[GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = self.time_to_first_chunk
            attributes[DSPY_STREAM_CHUNK_COUNT] = self.chunks
        if self.cache_hit is not None:
            attributes[DSPY_LM_CACHE_HIT] = self.cache_hit
        if self.cache_hit:
            if self.cache_tier:
                attributes[DSPY_LM_CACHE_TIER] = self.cache_tier
            return attributes
        attributes.update(usage_attributes(self.usage))
        if self.cost is not None and self.cost_source is not None:
            attributes[DSPY_LM_COST_TOTAL] = self.cost
            attributes[DSPY_LM_COST_SOURCE] = self.cost_source
        return attributes


def usage_attributes(usage: Any) -> Attributes:
    """Token counts, from any of the shapes in which LMs report them; non-numbers are left out."""
    if not usage:
        return {}
    inputs = value(usage, "prompt_tokens_details") or value(usage, "input_tokens_details")
    outputs = value(usage, "completion_tokens_details") or value(usage, "output_tokens_details")
    sources = {"": usage, "inputs": inputs, "outputs": outputs}
    attributes: Attributes = {}
    for attribute, source, name in _COUNTS:
        count = value(sources[source], name) if sources[source] else None
        if isinstance(count, int) and not isinstance(count, bool) and not attributes.get(attribute):
            attributes[attribute] = count
    return attributes


# The first number counts, but some report nothing cached in one place and the number in another.
_COUNTS = (
    (GEN_AI_USAGE_INPUT_TOKENS, "", "prompt_tokens"),
    (GEN_AI_USAGE_INPUT_TOKENS, "", "input_tokens"),
    (GEN_AI_USAGE_OUTPUT_TOKENS, "", "completion_tokens"),
    (GEN_AI_USAGE_OUTPUT_TOKENS, "", "output_tokens"),
    (GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "inputs", "cached_tokens"),
    (GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "", "cache_read_input_tokens"),
    (GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, "inputs", "cache_creation_tokens"),
    (GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, "", "cache_creation_input_tokens"),
    (GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, "outputs", "reasoning_tokens"),
)


def patch_points() -> list[PatchPoint]:
    """Where DSPy has these facts in hand, release by release."""
    base_lm = "dspy.clients.base_lm"
    return [
        FunctionPatch(
            "dspy.clients.execution", "finalize", noting(_note_result), _NO_FACTS, since=(3, 4)
        ),
        FunctionPatch(
            base_lm,
            "BaseLM._process_lm_response",
            noting(_note_provider_response),
            _NO_FACTS,
            until=(3, 4),
        ),
        FunctionPatch(
            base_lm,
            "BaseLM._finalize_lm_response",
            noting(_note_typed_response),
            "typed LM calls have no token usage, response id, finish reasons or cost",
            since=(3, 3),
            until=(3, 4),
        ),
        FunctionPatch(
            "dspy.clients.cache",
            "Cache.cache_key",
            _noting_tier,
            "cache hits do not say which tier answered",
        ),
        FunctionPatch(
            "dspy.clients.cache",
            "Cache.get",
            _noting_hit,
            "answers from the cache are not told from those of the provider",
            # Later releases mark the answer; the first ones of 3.0 do not.
            until=(3, 1),
        ),
        FunctionPatch(
            "dspy.clients.execution",
            "_delay",
            _noting_retry,
            "LM calls do not say how often DSPy tried again",
            # Before, LiteLLM retries where DSPy cannot see it.
            since=(3, 4),
        ),
    ]


def noting(note: Callable[[LMRecord, tuple[Any, ...]], None]) -> Any:
    """Makes the replacement of a function whose first argument is the LM."""

    def take(lm: Any, arguments: tuple[Any, ...]) -> None:
        call = current_call(Operations.LM, lm)
        if call is not None and isinstance(call.state, LMRecord):
            note(call.state, arguments)

    def make(_original: Any, runtime: Runtime, owner: Any) -> Any:
        _take, _guarded, _hide = take, guarded, hide_frame

        def noting(self: Any, /, *args: Any, **kwargs: Any) -> Any:
            _guarded(_take, self, args)
            try:
                return _original(self, *args, **kwargs)
            except BaseException as _error:
                _hide(_error)
                raise

        return as_dspy_frame(noting, _original)

    return make


def _noting_hit(_original: Any, runtime: Runtime, owner: Any) -> Any:
    _take, _guarded, _hide = _note_hit, guarded, hide_frame

    def get(*args: Any, **kwargs: Any) -> Any:
        try:
            _answer = _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        if _answer is not None:
            _guarded(_take)
        return _answer

    return as_dspy_frame(get, _original)


def _note_hit() -> None:
    call = current_call(Operations.LM)
    if call is not None and isinstance(call.state, LMRecord):
        call.state.cache_hit = True


def _noting_retry(_original: Any, runtime: Runtime, owner: Any) -> Any:
    _take, _guarded, _hide = _note_retry, guarded, hide_frame

    def delay(*args: Any, **kwargs: Any) -> Any:
        _guarded(_take)
        try:
            return _original(*args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise

    return as_dspy_frame(delay, _original)


def _note_retry() -> None:
    # Asked for once before each new try: how long to wait.
    call = current_call(Operations.LM)
    if call is not None and isinstance(call.state, LMRecord):
        call.state.retries += 1


def _noting_tier(_original: Any, runtime: Runtime, owner: Any) -> Any:
    _take, _guarded, _hide = _note_tier, guarded, hide_frame

    def cache_key(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        try:
            _key = _original(self, *args, **kwargs)
        except BaseException as _error:
            _hide(_error)
            raise
        _guarded(_take, self, _key)
        return _key

    return as_dspy_frame(cache_key, _original)


def _note_tier(cache: Any, key: str) -> None:
    call = current_call(Operations.LM)
    # The look-up comes first and asks memory before disk; a later store asks for the key again.
    if call is not None and isinstance(call.state, LMRecord) and call.state.cache_tier is None:
        memory = getattr(cache, "memory_cache", None)  # a cache of somebody else's has no tiers
        if memory is not None:
            call.state.cache_tier = "memory" if key in memory else "disk"


def _note_result(record: LMRecord, arguments: tuple[Any, ...]) -> None:
    """dspy >= 3.4: ``finalize(lm, call, result)``."""
    result = arguments[1]
    record.cache_hit = bool(result.cache_hit)
    record.usage = result.usage
    record.response_model = _text(result.response_model)
    responses = result.responses
    if responses:
        record.response_id = next((r.id for r in responses if r.id), None)
        record.finish_reasons = _texts(r.finish_reason for r in responses)
    elif result.raw is not None:
        _note_ids(record, result.raw)
    source = COST_FROM_DSPY if result.cost_details else COST_FROM_LITELLM
    _note_cost(record, result.cost, source)


def _note_provider_response(record: LMRecord, arguments: tuple[Any, ...]) -> None:
    """dspy < 3.4: ``lm._process_lm_response(response, prompt, messages, **kwargs)``."""
    response = arguments[0]
    record.cache_hit = bool(record.cache_hit or value(response, "cache_hit", False))
    record.usage = value(response, "usage")
    record.response_model = _text(value(response, "model"))
    _note_ids(record, response)
    hidden = getattr(response, "_hidden_params", None)
    if isinstance(hidden, Mapping):
        _note_cost(record, hidden.get("response_cost"), COST_FROM_LITELLM)  # type: ignore[reportUnknownMemberType]


def _note_typed_response(record: LMRecord, arguments: tuple[Any, ...]) -> None:
    """dspy 3.3: ``lm._finalize_lm_response(request, response)``, maybe after the one above."""
    response = arguments[1]
    record.cache_hit = bool(response.cache_hit)
    record.usage = response.usage or record.usage
    record.response_id = response.response_id or record.response_id
    record.response_model = _text(response.model) or record.response_model
    record.finish_reasons = (
        _texts(output.finish_reason for output in response.outputs) or record.finish_reasons
    )
    _note_cost(record, response.cost, COST_FROM_LITELLM)


def _note_ids(record: LMRecord, response: Any) -> None:
    record.response_id = _text(value(response, "id"))
    choices: Any = value(response, "choices") or ()
    record.finish_reasons = _texts(value(choice, "finish_reason") for choice in choices)


def _note_cost(record: LMRecord, cost: Any, source: str) -> None:
    if isinstance(cost, (int, float)) and not isinstance(cost, bool) and math.isfinite(cost):
        record.cost = float(cost)
        record.cost_source = source


def _text(candidate: Any) -> str | None:
    return candidate if isinstance(candidate, str) and candidate else None


def _texts(candidates: Iterable[Any]) -> tuple[str, ...]:
    return tuple(text for text in candidates if isinstance(text, str))
