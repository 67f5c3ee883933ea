# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""List prices of models, from the price tables of the libraries that the program uses.

No library is imported, and no table loaded, for its prices: LiteLLM's import takes seconds, and
both libraries download their tables. LiteLLM documents ``model_cost``. DSPy 3.4 and later load a
table of the same form when they price a call; that table is not documented. No other module reads
it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Final, cast

_INPUT: Final = "input_cost_per_token"
_OUTPUT: Final = "output_cost_per_token"
_CACHE_READ: Final = "cache_read_input_token_cost"
_CACHE_CREATION: Final = "cache_creation_input_token_cost"


def input_share(provider: str, model: str, usage: Mapping[str, int]) -> float | None:
    """The share of a call's cost that its input has by list prices, from 0 to 1.

    Args:
        provider: LiteLLM's name of the provider; empty if unknown.
        model: The model without its provider.
        usage: Counts of tokens with MLflow's names.

    Returns:
        None if no table has the prices of this model.
    """
    used, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    prices = _prices(provider, model)
    price_in, price_out = _price(prices, _INPUT), _price(prices, _OUTPUT)
    if (price_in is None and used) or (price_out is None and made):
        return None
    read = min(usage.get("cache_read_input_tokens", 0), used)
    written = min(usage.get("cache_creation_input_tokens", 0), used - read)
    plain = price_in or 0.0
    input_cost = (
        (used - read - written) * plain
        + read * _or_else(_price(prices, _CACHE_READ), plain)
        + written * _or_else(_price(prices, _CACHE_CREATION), plain)
    )
    total = input_cost + made * (price_out or 0.0)
    return input_cost / total if total > 0 else None


def is_known_to_litellm(provider: str, model: str) -> bool:
    """Whether LiteLLM, if the program uses it, has a price for this model of this provider."""
    return f"{provider}/{model}" in _litellm_table()


def _prices(provider: str, model: str) -> Mapping[str, Any]:
    for table in (_litellm_table(), _table("dspy.clients.model_metadata", "_data")):
        for name in (f"{provider}/{model}", model):
            known = table.get(name)
            if _is_of(provider, known):
                return cast("Mapping[str, Any]", known)
    return {}


def _is_of(provider: str, known: Any) -> bool:
    """Whether an entry is of this provider: others may have a model with the same name."""
    if not isinstance(known, Mapping):
        return False
    named: Any = cast("Mapping[str, Any]", known).get("litellm_provider")
    return not provider or not isinstance(named, str) or named.startswith(provider)


def _litellm_table() -> Mapping[str, Any]:
    return _table("litellm", "model_cost")


def _table(module: str, name: str) -> Mapping[str, Any]:
    table: Any = getattr(sys.modules.get(module), name, None)
    return cast("Mapping[str, Any]", table) if isinstance(table, Mapping) else {}


def _price(prices: Mapping[str, Any], name: str) -> float | None:
    price = prices.get(name)
    if isinstance(price, bool) or not isinstance(price, (int, float)):
        return None
    return float(price) if math.isfinite(price) and price >= 0 else None


def _or_else(price: float | None, other: float) -> float:
    return other if price is None else price
