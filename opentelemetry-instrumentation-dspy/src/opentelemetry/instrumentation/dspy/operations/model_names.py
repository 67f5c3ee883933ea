# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Model names as DSPy and LiteLLM write them, ``provider/model``, in the conventions' terms."""

from __future__ import annotations

from functools import lru_cache

# The prefix of a model name -> the conventions' name of the provider, where they differ.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "cohere_chat": "cohere",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}


@lru_cache(maxsize=512)
def split_model_name(model: str) -> tuple[str | None, str]:
    """The provider, as ``gen_ai.provider.name`` wants it, and the model without the prefix.

    ``azure/gpt-4o`` is ``("azure.ai.openai", "gpt-4o")``. The provider is None where the name has
    no prefix: what that means is for the caller to know.
    """
    prefix, slash, rest = model.partition("/")
    return (_PROVIDERS.get(prefix, prefix), rest) if slash else (None, model)
