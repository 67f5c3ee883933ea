# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Model names as DSPy and LiteLLM write them, ``provider/model``, in the conventions' terms."""

from __future__ import annotations

from functools import lru_cache

# The prefix of a model name -> the conventions' name of the provider, where they differ.
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
    # Those of DSPy's own client, dspy >= 3.4, which names a provider once for each of its APIs.
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

# Whose models LiteLLM knows by name alone. Any other name without a prefix is OpenAI's to DSPy.
_FAMILIES = (("claude-", "anthropic"), ("gemini-", "gcp.vertex_ai"))
_BEDROCK_ROUTES = ("converse/", "converse_like/", "invoke/")


@lru_cache(maxsize=512)
def split_model_name(model: str) -> tuple[str, str]:
    """The provider, as ``gen_ai.provider.name`` wants it, and the model without the prefix.

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
    """The conventions' name of what LiteLLM or DSPy's own client calls a provider."""
    # The latter takes an underscore for a hyphen.
    return _PROVIDERS.get(name) or _PROVIDERS.get(name.replace("_", "-"), name)


def _without_route(model: str) -> str:
    # How Bedrock is to be asked is no part of the model's name.
    for route in _BEDROCK_ROUTES:
        model = model.removeprefix(route)
    return model
