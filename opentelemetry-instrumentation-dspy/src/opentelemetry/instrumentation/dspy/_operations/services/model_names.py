# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Model names of DSPy and LiteLLM, ``provider/model``, in the terms of the conventions."""

from __future__ import annotations

from functools import lru_cache

# The prefix of a model name -> the provider's name in the conventions, if they differ.
_PROVIDERS = {
    "anthropic_text": "anthropic",
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_text": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_mantle": "aws.bedrock",
    "codestral": "mistral_ai",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "text-completion-codestral": "mistral_ai",
    "text-completion-openai": "openai",
    "vertex_ai": "gcp.vertex_ai",
    "vertex_ai_beta": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "watsonx_text": "ibm.watsonx.ai",
    "xai": "x_ai",
    # Prefixes of DSPy's own client, dspy >= 3.4, with one name for each API of a provider.
    "aws-anthropic": "anthropic",
    "azure-anthropic": "azure.ai.inference",
    "azure-chat": "azure.ai.openai",
    "bedrock-anthropic": "aws.bedrock",
    "bedrock-chat": "aws.bedrock",
    "bedrock-mantle-chat": "aws.bedrock",
    "claude-code": "anthropic",
    "deepseek-anthropic": "deepseek",
    "openai-chat": "openai",
    "openai-codex": "openai",
    "vertex": "gcp.vertex_ai",
    "vertex-anthropic": "gcp.vertex_ai",
    "vertex-express": "gcp.vertex_ai",
}

# Providers of models that LiteLLM knows without a prefix. DSPy sends other names to OpenAI.
_FAMILIES = (("claude-", "anthropic"), ("gemini-", "gcp.vertex_ai"))
_BEDROCK_ROUTES = ("converse/", "converse_like/", "invoke/")


@lru_cache(maxsize=512)
def split_model_name(model: str) -> tuple[str, str]:
    """The provider, as in ``gen_ai.provider.name``, and the model without the prefix.

    ``azure/gpt-4o`` is ``("azure.ai.openai", "gpt-4o")``.
    """
    prefix, slash, rest = model.partition("/")
    if not slash:
        found = (provider for start, provider in _FAMILIES if model.startswith(start))
        return next(found, "openai"), model
    if prefix == "bedrock":
        rest = _without_route(rest)
    return provider_named(prefix), rest


def provider_named(name: str) -> str:
    """The conventions' name of a provider that LiteLLM or DSPy's own client names."""
    # DSPy's client accepts an underscore for a hyphen.
    return _PROVIDERS.get(name) or _PROVIDERS.get(name.replace("_", "-"), name)


def _without_route(model: str) -> str:
    # The route of a Bedrock request is not part of the model's name.
    for route in _BEDROCK_ROUTES:
        model = model.removeprefix(route)
    return model
