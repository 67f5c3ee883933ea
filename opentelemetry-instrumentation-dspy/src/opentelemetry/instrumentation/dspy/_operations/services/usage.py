# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Token counts in the terms of the GenAI conventions, and costs, from LM responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from numbers import Real
from typing import Any, Final, cast

from opentelemetry.instrumentation.dspy import semconv
from opentelemetry.instrumentation.dspy._calls.call import Attributes
from opentelemetry.instrumentation.dspy._guarding import pass_on
from opentelemetry.instrumentation.dspy._operations.reading import value


def usage_attributes(usage: Any) -> Attributes:
    """Token counts, from any shape in which LMs report them; other values are skipped."""
    if not usage:
        return {}
    read = _reader(usage)
    inputs = read("prompt_tokens_details") or read("input_tokens_details")
    outputs = read("completion_tokens_details") or read("output_tokens_details")
    attributes: Attributes = {}
    if inputs:
        _count(attributes, _reader(inputs), _INPUT_DETAILS)
    if outputs:
        _count(attributes, _reader(outputs), _OUTPUT_DETAILS)
    _count(attributes, read, _COUNTS)
    if (
        semconv.GEN_AI_USAGE_INPUT_TOKENS not in attributes
        and semconv.GEN_AI_USAGE_OUTPUT_TOKENS not in attributes
    ):
        _count(attributes, read, _OTHER_COUNTS)
    if read("prompt_tokens") is None and not inputs:
        _add_apart(attributes, read)
    return attributes


_Reader = Callable[[str], Any]


def _reader(source: Any) -> _Reader:
    kind: type[Any] = type(source)  # type: ignore[reportUnknownVariableType]
    return source.get if kind is dict else partial(value, source)


def _add_apart(attributes: Attributes, read: _Reader) -> None:
    """Add tokens that some providers do not include in their totals, unlike the conventions.

    Anthropic and Bedrock: cache reads and writes. Gemini: thoughts.
    """
    for attribute, name in _APART:
        count = as_count(read(name))
        if count is not None and attribute in attributes:
            attributes[attribute] += count


def as_count(candidate: Any) -> int | None:
    """A token count; gateways may send a float. None if the value is not a count."""
    if isinstance(candidate, bool) or not isinstance(candidate, Real):
        return None
    number: Any = candidate  # also numpy's, which type checkers do not know as numbers
    try:
        count = int(number)
    except (ValueError, OverflowError) as error:  # NaN or infinity
        pass_on(error)
        return None
    return count if count >= 0 and count == number else None


def _count(attributes: Attributes, read: _Reader, counts: Iterable[tuple[str, str]]) -> None:
    for attribute, name in counts:
        found = read(name)
        if found is None:
            continue
        count = found if type(found) is int and found >= 0 else as_count(found)
        # Some report zero cached tokens in one field and the number in another.
        if count is not None and not attributes.get(attribute):
            attributes[attribute] = count


_INPUT_DETAILS = (
    (semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "cached_tokens"),
    (semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, "cache_creation_tokens"),
    (semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, "cache_write_tokens"),
)
_OUTPUT_DETAILS = ((semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, "reasoning_tokens"),)
_COUNTS = (
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "prompt_tokens"),
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "input_tokens"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "completion_tokens"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "output_tokens"),
    (semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "cache_read_input_tokens"),
    (semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "prompt_cache_hit_tokens"),  # DeepSeek
    (semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "cached_tokens"),  # Moonshot
    (semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, "cache_creation_input_tokens"),
)
# The raw usage of a provider, as an LM of the program may return it: Gemini, Bedrock, Ollama.
_OTHER_COUNTS = (
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "prompt_token_count"),
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "promptTokenCount"),
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "inputTokens"),
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "prompt_eval_count"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "candidates_token_count"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "candidatesTokenCount"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "outputTokens"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "eval_count"),
    (semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "cached_content_token_count"),
    (semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "cachedContentTokenCount"),
    (semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, "cacheReadInputTokens"),
    (semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, "cacheWriteInputTokens"),
    (semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, "thoughts_token_count"),
    (semconv.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, "thoughtsTokenCount"),
)
_APART = (
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "cache_read_input_tokens"),
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "cache_creation_input_tokens"),
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "cacheReadInputTokens"),
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, "cacheWriteInputTokens"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "thoughts_token_count"),
    (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "thoughtsTokenCount"),
)


COST_FROM_DSPY: Final = "dspy"
COST_FROM_LITELLM: Final = "litellm"
COST_FROM_PROVIDER: Final = "provider"


def as_cost(candidate: Any) -> float | None:
    """US dollars as float; None if the value is not a finite number."""
    if isinstance(candidate, (int, float)) and not isinstance(candidate, bool):
        return float(candidate) if math.isfinite(candidate) else None
    return None


def litellm_cost(response: Any) -> float | None:
    """The cost that LiteLLM puts on its responses; None if it has no price for the model."""
    # LiteLLM has it in no other place: https://docs.litellm.ai/docs/completion/token_usage
    hidden = getattr(response, "_hidden_params", None)
    if not isinstance(hidden, Mapping):
        return None
    return as_cost(cast("Mapping[str, Any]", hidden).get("response_cost"))


def provider_cost(usage: Any) -> float | None:
    """The cost that a provider reports, as OpenRouter does with every usage."""
    if usage is None:
        return None
    # https://openrouter.ai/docs/use-cases/usage-accounting
    cost = as_cost(value(usage, "cost"))
    if cost is None or cost < 0:
        return None
    if value(usage, "is_byok") is True:
        # With BYOK, `cost` is only the gateway's fee; add the upstream cost.
        cost += as_cost(value(value(usage, "cost_details"), "upstream_inference_cost")) or 0.0
    return cost
