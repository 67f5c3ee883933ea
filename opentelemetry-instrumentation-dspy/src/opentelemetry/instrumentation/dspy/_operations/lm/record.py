# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""The data of one LM call that its return value lacks: usage, model, cost and cache hit.

The patches of `capture` and `chunks` record it during the call.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import Attributes
from opentelemetry.instrumentation.dspy._guarding import new_lock
from opentelemetry.instrumentation.dspy._operations.services.usage import usage_attributes

_inner_lock = new_lock()


@dataclass(slots=True)
class LMAnswer:
    """The data of one answer to an LM call.

    Attributes:
        cache_hit: Whether the answer came from DSPy's cache.
        usage: Token counts in the names of DSPy or the provider.
        cost: US dollars; None if not known.
        cost_source: ``dspy``, ``litellm`` or ``provider``, which stated the cost.
        response_id: The provider's id of the response.
        response_model: The model that answered.
        finish_reasons: The finish reason of each choice.
        typed: Whether the data is from the typed response that dspy 3.3 builds.
        raw: The response, to recognise it if the program passes it on.
        from_history: Whether the data is from an entry that the program adds to the history.
    """

    cache_hit: bool = False
    usage: Any = None
    cost: float | None = None
    cost_source: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    typed: bool = False
    raw: Any = None
    from_history: bool = False


@dataclass(slots=True)
class LMRecord:
    """The data of one LM call.

    Attributes:
        answers: Usually one answer; several if an LM calls its base class several times.
        forwarded: Answers of DSPy's own ``forward`` to a ``forward`` of the program that has not
            returned yet.
        nested: Answers to LM calls that were made inside this call.
        inner: Usage and cost of the calls inside this call, by the attribute names used here.
        cache_answered: Whether the cache has just answered, for releases that do not mark answers.
        cache_tier: ``memory`` or ``disk``: the tier of the answer if it is a hit.
        retries: Number of DSPy's retries.
        chunks: Number of chunks of a streamed response so far.
        time_to_first_chunk: Seconds from the start of the call; None while nothing is streamed.
    """

    answers: list[LMAnswer] = field(default_factory=list[LMAnswer])
    forwarded: tuple[LMAnswer, ...] = ()
    nested: tuple[LMAnswer, ...] = ()
    inner: Attributes | None = None
    cache_answered: bool = False
    cache_tier: str | None = None
    retries: int = 0
    chunks: int = 0
    time_to_first_chunk: float | None = None
    _started_ns: int = field(default_factory=time.perf_counter_ns)
    _nested_seen: int = 0

    def add_chunk(self) -> None:
        """Count a chunk."""
        self.chunks += 1
        if self.time_to_first_chunk is None:
            self.time_to_first_chunk = (time.perf_counter_ns() - self._started_ns) / 1e9

    def add_program_answer(self, answer: LMAnswer) -> None:
        """Add an answer that code of the program returned, possibly built from other answers.

        Each of the other answers was paid for. Usage and cost of the added answer count only if
        they differ from those.
        """
        if not self.forwarded and not self.nested:  # the usual case
            self.answers.append(answer)
            return
        forwarded, self.forwarded = self.forwarded, ()
        nested, self._nested_seen = self.nested[self._nested_seen :], len(self.nested)
        if any(given.raw is answer.raw for given in forwarded):
            self.answers.extend(forwarded)
            return
        given = (*forwarded, *nested)
        if given and _is_passed_on(answer, given):
            self.answers.extend(forwarded)
            answer.usage = answer.cost = None
            answer.cache_hit = all(other.cache_hit for other in given)
        elif answer.cost is None:
            _add_costs(answer, forwarded)
        self.answers.append(answer)

    def add_nested(self, inner: LMRecord, same_lm: bool) -> None:
        """Add the answers to an LM call that ended inside this call.

        An LM that calls itself does not pass these answers on: its base class answers as well.
        """
        self.nested = (*self.nested, *inner.answers, *inner.forwarded, *inner.nested)
        if same_lm:
            self._nested_seen = len(self.nested)

    def add_inner(self, attributes: Attributes, inner: Attributes | None = None) -> None:
        """Add usage and cost of a call inside this call, and of the calls inside that call."""
        with _inner_lock:  # calls in threads of the program may end at any time
            total = self.inner = self.inner or {}
            for name, here in _INNER.items():
                amount = attributes.get(name, 0) + (inner or {}).get(here, 0)
                if amount:
                    total[here] = total.get(here, 0) + amount

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """The finish reasons of all answers."""
        if len(self.answers) == 1:
            return self.answers[0].finish_reasons
        return tuple(reason for answer in self.answers for reason in answer.finish_reasons)

    def attributes(self) -> Attributes:
        """The record as span attributes, without usage and cost of answers from the cache."""
        if self.forwarded:  # the program's ``forward`` failed, or its response was not used
            self.answers.extend(self.forwarded)
            self.forwarded = ()
        attributes: Attributes = {}
        if self.retries:
            attributes[semconv.DSPY_LM_RETRY_COUNT] = self.retries
        if self.time_to_first_chunk is not None:
            attributes[semconv.GEN_AI_REQUEST_STREAM] = True
            attributes[semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = self.time_to_first_chunk
            attributes[semconv.DSPY_STREAM_CHUNK_COUNT] = self.chunks
        for answer in self.answers:
            _put_response(attributes, answer)
        reasons = self.finish_reasons
        if reasons:
            attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = reasons
        if self.answers:
            self._put_usage_and_cost(attributes)
        if self.inner and not attributes.keys().isdisjoint(_INNER):
            attributes.update(self.inner)
        return attributes

    def _put_usage_and_cost(self, attributes: Attributes) -> None:
        asked = [answer for answer in self.answers if not answer.cache_hit]
        attributes[semconv.DSPY_LM_CACHE_HIT] = not asked
        if not asked and self.cache_tier:
            attributes[semconv.DSPY_LM_CACHE_TIER] = self.cache_tier
        for answer in asked:
            for name, count in usage_attributes(answer.usage).items():
                attributes[name] = attributes.get(name, 0) + count
            if answer.cost is not None and answer.cost_source is not None:
                attributes[semconv.DSPY_LM_COST_TOTAL] = (
                    attributes.get(semconv.DSPY_LM_COST_TOTAL, 0.0) + answer.cost
                )
                attributes[semconv.DSPY_LM_COST_SOURCE] = answer.cost_source


_INNER = {
    semconv.GEN_AI_USAGE_INPUT_TOKENS: semconv.DSPY_LM_INNER_INPUT_TOKENS,
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: semconv.DSPY_LM_INNER_OUTPUT_TOKENS,
    semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: semconv.DSPY_LM_INNER_CACHE_READ_INPUT_TOKENS,
    semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS: (
        semconv.DSPY_LM_INNER_CACHE_CREATION_INPUT_TOKENS
    ),
    semconv.DSPY_LM_COST_TOTAL: semconv.DSPY_LM_INNER_COST_TOTAL,
}


def _is_passed_on(answer: LMAnswer, given: Sequence[LMAnswer]) -> bool:
    """Whether the usage of an answer repeats that of the answers that it was built from."""
    if any(answer.raw is not None and other.raw is answer.raw for other in given):
        return True
    known = answer.response_id
    if known and any(other.cache_hit and other.response_id == known for other in given):
        return True  # its usage is that of the call that filled the cache
    used = _tokens(answer.usage)
    each = [_tokens(other.usage) for other in given]
    return not any(used) or used in each or used == tuple(map(sum, zip(*each, strict=True)))


def _tokens(usage: Any) -> tuple[int, int]:
    counts = usage_attributes(usage)
    return counts.get(semconv.GEN_AI_USAGE_INPUT_TOKENS, 0), counts.get(
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS, 0
    )


def _add_costs(answer: LMAnswer, forwarded: Sequence[LMAnswer]) -> None:
    for other in forwarded:
        if other.cost is not None and not other.cache_hit:
            answer.cost = (answer.cost or 0.0) + other.cost
            answer.cost_source = other.cost_source


def _put_response(attributes: Attributes, answer: LMAnswer) -> None:
    if answer.response_id:
        attributes[semconv.GEN_AI_RESPONSE_ID] = answer.response_id
    if answer.response_model:
        attributes[semconv.GEN_AI_RESPONSE_MODEL] = answer.response_model
