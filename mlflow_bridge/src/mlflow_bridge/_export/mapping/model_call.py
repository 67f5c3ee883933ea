# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Token usage, cost, model and provider of a model call in the form that MLflow adds up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from mlflow_bridge._export.mapping.prices import input_share, is_known_to_litellm
from mlflow_bridge._export.mapping.storable import Storable, json_text
from mlflow_bridge._spans.names import COST, MODEL, PROVIDER, TOKEN_USAGE
from opentelemetry.instrumentation.dspy import semconv

_MODEL_OPERATIONS: Final = frozenset(
    {"chat", "text_completion", "generate_content", "response", "embeddings"}
)
_DSPY_MODEL_OPERATIONS: Final = frozenset({"lm", "embedding"})
# Names of earlier versions of the GenAI conventions.
_PROMPT_TOKENS: Final = "gen_ai.usage.prompt_tokens"
_COMPLETION_TOKENS: Final = "gen_ai.usage.completion_tokens"
_CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
_SYSTEM: Final = "gen_ai.system"

# MLflow looks up a price by model and provider, with litellm's name of the provider. MLflow's own
# instrumentations also write that name.
_PRICED_AS: Final = {
    "aws.bedrock": "bedrock",
    "azure.ai.inference": "azure_ai",
    "azure.ai.openai": "azure",
    "az.ai.inference": "azure_ai",
    "az.ai.openai": "azure",
    "gcp.gemini": "gemini",
    "gcp.gen_ai": "gemini",
    "gcp.vertex_ai": "vertex_ai",
    "ibm.watsonx.ai": "watsonx",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshot",
    "x_ai": "xai",
}

# litellm's names of self-hosted servers.
_SELF_HOSTED: Final = frozenset(
    {
        "hosted_vllm",
        "llamafile",
        "lm_studio",
        "ollama",
        "ollama_chat",
        "sglang",
        "triton",
        "vllm",
        "xinference",
    }
)

_INNER: Final = {
    "input_tokens": semconv.DSPY_LM_INNER_INPUT_TOKENS,
    "output_tokens": semconv.DSPY_LM_INNER_OUTPUT_TOKENS,
    "cache_read_input_tokens": semconv.DSPY_LM_INNER_CACHE_READ_INPUT_TOKENS,
    "cache_creation_input_tokens": semconv.DSPY_LM_INNER_CACHE_CREATION_INPUT_TOKENS,
}

_MAX_COUNT: Final = 2**53
_USAGE_PREFIX: Final = "gen_ai.usage."


def model_call_fields(source: Mapping[str, Any], limit: int) -> dict[str, Storable]:
    """Usage, cost, model and provider of the span with these attributes.

    A cache hit has no usage and no cost. MLflow computes a cost itself for a span with model and
    usage but without cost.
    """
    fields = _model(source)
    if is_cache_hit(source):
        return fields
    usage = _usage(source)
    if usage is not None:
        fields[TOKEN_USAGE] = json_text(_with_inner(usage, source), limit)
    cost = _cost(source, usage or {}, fields)
    if cost is None and usage is not None and _is_free_of_charge(fields):
        cost = {}  # The UI shows no cost for this value, and MLflow does not compute a cost.
    if cost is not None:
        fields[COST] = json_text(cost, limit)
    return fields


def is_cache_hit(source: Mapping[str, Any]) -> bool:
    """Whether the span's LM call was answered from DSPy's cache."""
    return source.get(semconv.DSPY_LM_CACHE_HIT) is True


def is_spent_attribute(key: str) -> bool:
    """Whether the attribute is about usage or cost, which a cache hit does not have."""
    return key.startswith(_USAGE_PREFIX) or key in (TOKEN_USAGE, COST, semconv.DSPY_LM_COST_TOTAL)


def _usage(source: Mapping[str, Any]) -> dict[str, int] | None:
    used = _count(source, semconv.GEN_AI_USAGE_INPUT_TOKENS, _PROMPT_TOKENS)
    made = _count(source, semconv.GEN_AI_USAGE_OUTPUT_TOKENS, _COMPLETION_TOKENS)
    if used is None and made is None:
        return None
    usage = {
        "input_tokens": used or 0,
        "output_tokens": made or 0,
        "total_tokens": (used or 0) + (made or 0),
    }
    read = _count(source, semconv.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS)
    written = _count(source, semconv.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS, _CACHE_WRITE_TOKENS)
    if read is not None:
        usage["cache_read_input_tokens"] = read
    if written is not None:
        usage["cache_creation_input_tokens"] = written
    return usage


def _with_inner(usage: dict[str, int], source: Mapping[str, Any]) -> dict[str, int]:
    """The usage of this call plus the usage of calls made inside of it.

    MLflow takes the usage of a span as the total of the spans below it, and does not add those.
    """
    total = dict(usage)
    for name, key in _INNER.items():
        inner = _count(source, key)
        if inner:
            total[name] = total.get(name, 0) + inner
    total["total_tokens"] = total["input_tokens"] + total["output_tokens"]
    return total


def _count(source: Mapping[str, Any], *keys: str) -> int | None:
    for key in keys:
        value = source.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        # Within the integers of JavaScript, for the UI. This is also false for NaN.
        if 0 <= value < _MAX_COUNT:
            return int(value)
    return None


def _cost(
    source: Mapping[str, Any], usage: Mapping[str, int], fields: Mapping[str, Storable]
) -> dict[str, float] | None:
    """The known total cost in US dollars, with the parts without which MLflow's UI shows no cost.

    The total is divided in the proportion of the model's list prices. If these are not known, both
    parts are 0, as in MLflow's own sum for the trace: MLflow refuses a part without a number, and
    its UI shows a total only beside both parts.
    """
    own = _dollars(source, semconv.DSPY_LM_COST_TOTAL)
    # MLflow takes this cost as the total of the spans below; see `_with_inner`.
    inner = _dollars(source, semconv.DSPY_LM_INNER_COST_TOTAL)
    if own is None and inner is None:
        return None
    total = (own or 0.0) + (inner or 0.0)
    share = None if inner else _input_share(usage, fields)
    input_cost = 0.0 if share is None else total * share
    return {
        "input_cost": input_cost,
        "output_cost": 0.0 if share is None else total - input_cost,
        "total_cost": total,
    }


def _input_share(usage: Mapping[str, int], fields: Mapping[str, Storable]) -> float | None:
    used, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    if used and not made:
        return 1.0
    if made and not used:
        return 0.0
    if not used or MODEL not in fields:
        return None
    return input_share(str(fields.get(PROVIDER, "")), str(fields[MODEL]), usage)


def _dollars(source: Mapping[str, Any], key: str) -> float | None:
    amount = source.get(key)
    if not isinstance(amount, (int, float)) or not math.isfinite(amount) or amount < 0:
        return None
    return float(amount)


def _is_free_of_charge(fields: Mapping[str, Storable]) -> bool:
    """Whether the model is self-hosted and has no price.

    If MLflow knows no price for the provider, it takes the price that another provider has for a
    model with the same name.
    """
    if fields.get(PROVIDER) not in _SELF_HOSTED or MODEL not in fields:
        return False
    # The program may have registered a price in litellm.
    return not is_known_to_litellm(str(fields[PROVIDER]), str(fields[MODEL]))


def _model(source: Mapping[str, Any]) -> dict[str, Storable]:
    if (
        source.get(semconv.DSPY_OPERATION) not in _DSPY_MODEL_OPERATIONS
        and source.get(semconv.GEN_AI_OPERATION_NAME) not in _MODEL_OPERATIONS
    ):
        return {}
    named = _name(source, semconv.GEN_AI_PROVIDER_NAME, _SYSTEM)
    provider = _PRICED_AS.get(named, named)
    model = _name(source, semconv.GEN_AI_RESPONSE_MODEL, semconv.GEN_AI_REQUEST_MODEL)
    fields: dict[str, Storable] = {}
    if model:
        # litellm puts the provider before the model, but price lists have the model alone.
        fields[MODEL] = model.removeprefix(f"{named}/").removeprefix(f"{provider}/")
    if provider:
        fields[PROVIDER] = provider
    return fields


def _name(source: Mapping[str, Any], *keys: str) -> str:
    names = (source.get(key) for key in keys)
    return next((name for name in names if isinstance(name, str) and name), "")
