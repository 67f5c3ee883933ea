# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What a call of a model cost, as whoever has a price table says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, cast

from opentelemetry.instrumentation.dspy._operations.reading import value

COST_FROM_DSPY: Final = "dspy"
COST_FROM_LITELLM: Final = "litellm"
COST_FROM_PROVIDER: Final = "provider"


def as_cost(candidate: Any) -> float | None:
    """US dollars as float; None for anything that is no finite number."""
    if isinstance(candidate, (int, float)) and not isinstance(candidate, bool):
        return float(candidate) if math.isfinite(candidate) else None
    return None


def litellm_cost(response: Any) -> float | None:
    """The cost that LiteLLM notes on its responses; None where it knows no price of the model."""
    # The only place where it does. https://docs.litellm.ai/docs/completion/token_usage names it.
    hidden = getattr(response, "_hidden_params", None)
    if not isinstance(hidden, Mapping):
        return None
    return as_cost(cast("Mapping[str, Any]", hidden).get("response_cost"))


def provider_cost(usage: Any) -> float | None:
    """The cost that a provider says it charges, as OpenRouter does with every usage."""
    if usage is None:
        return None
    # https://openrouter.ai/docs/use-cases/usage-accounting
    cost = as_cost(value(usage, "cost"))
    if cost is None or cost < 0:
        return None
    if value(usage, "is_byok") is True:  # with a key of one's own, the fee of the gateway alone
        cost += as_cost(value(value(usage, "cost_details"), "upstream_inference_cost")) or 0.0
    return cost
