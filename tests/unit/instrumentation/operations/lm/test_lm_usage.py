# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Token counts, in the shapes in which providers, gateways and their clients report them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from opentelemetry.instrumentation.dspy._operations.services.usage import usage_attributes
from tests.support.lms import EchoLM, completion
from tests.support.traced import Traced

pytestmark = pytest.mark.surface("LM")

Counts = dict[str, int]

OPENAI = {"prompt_tokens": 100, "completion_tokens": 20}
PLAIN: Counts = {"input_tokens": 100, "output_tokens": 20}
CACHED: Counts = {**PLAIN, "cache_read.input_tokens": 40}
WRITTEN: Counts = {**CACHED, "cache_creation.input_tokens": 10}
ANTHROPIC = {"input_tokens": 50, "output_tokens": 20, "cache_read_input_tokens": 40}
GEMINI = {
    "prompt_token_count": 100,
    "candidates_token_count": 15,
    "thoughts_token_count": 5,
    "cached_content_token_count": 40,
    "total_token_count": 120,
}

SHAPES: dict[str, tuple[Any, Counts]] = {
    "OpenAI": (OPENAI, PLAIN),
    "an object": (SimpleNamespace(**OPENAI), PLAIN),
    "whole numbers as floats": ({"prompt_tokens": 100.0, "completion_tokens": 20.0}, PLAIN),
    "of numpy": (
        {"prompt_tokens": numpy.int64(100), "completion_tokens": numpy.float32(20)},
        PLAIN,
    ),
    "cache writes, as OpenRouter has them": (
        {**OPENAI, "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 10}},
        WRITTEN,
    ),
    "DeepSeek": ({**OPENAI, "prompt_cache_hit_tokens": 40, "prompt_cache_miss_tokens": 60}, CACHED),
    "Moonshot": ({**OPENAI, "cached_tokens": 40}, CACHED),
    "Anthropic": ({**ANTHROPIC, "cache_creation_input_tokens": 10}, WRITTEN),
    "Anthropic, nothing written": (
        {**ANTHROPIC, "cache_creation_input_tokens": None},
        {
            **CACHED,
            "input_tokens": 90,
        },
    ),
    "LiteLLM for Anthropic": (
        {**OPENAI, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 10},
        WRITTEN,
    ),
    "Gemini": (SimpleNamespace(**GEMINI), {**CACHED, "reasoning.output_tokens": 5}),
    "Gemini, as JSON": (
        {
            "promptTokenCount": 100,
            "candidatesTokenCount": 15,
            "thoughtsTokenCount": 5,
            "cachedContentTokenCount": 40,
        },
        {**CACHED, "reasoning.output_tokens": 5},
    ),
    "Bedrock": (
        {
            "inputTokens": 50,
            "outputTokens": 20,
            "cacheReadInputTokens": 40,
            "cacheWriteInputTokens": 10,
        },
        WRITTEN,
    ),
    "Ollama": ({"prompt_eval_count": 100, "eval_count": 20}, PLAIN),
    "a gateway of Anthropic that says what OpenAI says, too": (
        {**OPENAI, "input_tokens": 100, "cache_read_input_tokens": 40},
        CACHED,
    ),
}

NOT_COUNTS: list[Any] = [True, -1, 2.5, float("nan"), float("inf"), "12", "many", [1], {}]


@pytest.mark.parametrize(("usage", "counts"), SHAPES.values(), ids=SHAPES)
def test_counts_of_a_usage(usage: Any, counts: Counts) -> None:
    found = usage_attributes(usage)
    assert {name.removeprefix("gen_ai.usage."): count for name, count in found.items()} == counts
    assert {type(count) for count in found.values()} == {int}


@pytest.mark.parametrize("count", NOT_COUNTS, ids=repr)
def test_what_is_no_count_is_left_out(traced: Traced, count: Any) -> None:
    class Odd(EchoLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return completion("hi", usage={"prompt_tokens": count, "completion_tokens": 2})

    assert Odd()("hello") == ["hi"]
    attributes = traced.attributes("chat echo")
    usage = {name: attributes[name] for name in attributes if name.startswith("gen_ai.usage.")}
    assert usage == {"gen_ai.usage.output_tokens": 2}


@pytest.mark.parametrize("usage", [None, {}, "none", 7, [1, 2]], ids=repr)
def test_no_usage_has_no_counts(usage: Any) -> None:
    assert usage_attributes(usage) == {}
