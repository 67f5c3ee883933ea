# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Model, tokens and cost of a call in MLflow's dialect."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mlflow_bridge._export.mapping import prices
from tests.support.dspy_spans import Recorder, json_of, lm_attributes
from tests.unit.bridge.export.mapped_spans import attributes_of, one, replaced


def test_cache_hit_uses_and_costs_nothing() -> None:
    attributes = one(lm_attributes(dspy__lm__cache__hit=True))
    spent = [key for key in attributes if "usage" in key.lower() or "cost" in key]
    assert spent == []
    assert attributes["mlflow.llm.model"] == "gpt-4o-mini"
    assert attributes["dspy.lm.cache.hit"] is True


def test_tool_definitions() -> None:
    tool = {"type": "function", "name": "search", "parameters": {"type": "object"}}
    attributes = one({"gen_ai.tool.definitions": json_of([tool])})
    assert attributes["mlflow.chat.tools"] == [
        {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
    ]
    assert "gen_ai.tool.definitions" not in attributes


def test_tool_definition_that_cannot_be_shown_is_kept() -> None:
    definitions = [{"type": "function", "name": "search"}, {"type": "web_search"}]
    attributes = one({"gen_ai.tool.definitions": json_of(definitions)})
    assert attributes["gen_ai.tool.definitions"] == definitions


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        ({}, {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0012}),
        (
            {"gen_ai__usage__output_tokens": 0},
            {"input_cost": 0.0012, "output_cost": 0.0, "total_cost": 0.0012},
        ),
        ({"dspy__lm__cost__total": None}, None),
        ({"dspy__lm__cost__total": math.nan}, None),
        ({"dspy__lm__cost__total": -1.0}, None),
        ({"dspy__lm__cost__total": "much"}, None),
        (
            {"gen_ai__usage__input_tokens": 0},
            {"input_cost": 0.0, "output_cost": 0.0012, "total_cost": 0.0012},
        ),
        (
            {"gen_ai__usage__input_tokens": None, "gen_ai__usage__output_tokens": None},
            {"input_cost": 0.0, "output_cost": 0.0, "total_cost": 0.0012},
        ),
    ],
)
def test_cost(
    monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any], cost: dict[str, float] | None
) -> None:
    monkeypatch.setattr(prices, "_prices", lambda provider, model: {})
    assert one(lm_attributes(**overrides)).get("mlflow.llm.cost") == cost


PRICES = {"input_cost_per_token": 1e-6, "output_cost_per_token": 5e-6}
CACHED = {**PRICES, "cache_read_input_token_cost": 1e-7, "litellm_provider": "openai"}


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        # 100 input tokens, of which 10 are cached, and 20 output tokens cost 0.0012 in all.
        ({"gpt-4o-mini": PRICES}, (0.0006, 0.0006)),
        ({"openai/gpt-4o-mini": PRICES}, (0.0006, 0.0006)),
        ({"gpt-4o-mini": CACHED}, (0.0012 * 91 / 191, 0.0012 * 100 / 191)),
        ({"gpt-4o-mini": {**PRICES, "litellm_provider": "azure"}}, (0.0, 0.0)),
        ({"gpt-4o-mini": {"input_cost_per_token": 1e-6}}, (0.0, 0.0)),
        ({"gpt-4o-mini": {"input_cost_per_token": "x", "output_cost_per_token": 1}}, (0.0, 0.0)),
        ({"gpt-4o-mini": dict.fromkeys(PRICES, 0.0)}, (0.0, 0.0)),
        ({"gpt-4o-mini": dict.fromkeys(PRICES, math.nan)}, (0.0, 0.0)),
        ({"other": PRICES}, (0.0, 0.0)),
        (None, (0.0, 0.0)),
    ],
)
def test_cost_is_divided_by_list_prices(
    monkeypatch: pytest.MonkeyPatch, table: Any, parts: tuple[float, float]
) -> None:
    monkeypatch.setitem(sys.modules, "litellm", SimpleNamespace(model_cost=table))
    monkeypatch.delitem(sys.modules, "dspy.clients.model_metadata", raising=False)
    cost = one(lm_attributes())["mlflow.llm.cost"]
    assert (cost["input_cost"], cost["output_cost"]) == pytest.approx(parts)
    assert cost["total_cost"] == 0.0012


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"gpt-4o-mini": CACHED}, (0.0012 * 91 / 191, 0.0012 * 100 / 191)),
        (None, (0.0, 0.0)),  # not loaded, since DSPy has priced no call
        ("?", (0.0, 0.0)),
    ],
)
def test_cost_is_divided_by_the_prices_of_dspy(
    monkeypatch: pytest.MonkeyPatch, table: Any, parts: tuple[float, float]
) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    monkeypatch.setitem(sys.modules, "dspy.clients.model_metadata", SimpleNamespace(_data=table))
    cost = one(lm_attributes())["mlflow.llm.cost"]
    assert (cost["input_cost"], cost["output_cost"]) == pytest.approx(parts)


INNER = {
    "dspy.lm.inner.input_tokens": 40,
    "dspy.lm.inner.output_tokens": 9,
    "dspy.lm.inner.cache_creation.input_tokens": 5,
    "dspy.lm.inner.cost.total": 0.5,
}


def test_calls_inside_of_an_lm_call_are_part_of_its_sum() -> None:
    attributes = one({**lm_attributes(), **INNER})
    assert attributes["mlflow.chat.tokenUsage"] == {
        "input_tokens": 140,
        "output_tokens": 29,
        "total_tokens": 169,
        "cache_read_input_tokens": 10,
        "cache_creation_input_tokens": 5,
    }
    cost = {"input_cost": 0.0, "output_cost": 0.0, "total_cost": pytest.approx(0.5012)}
    assert attributes["mlflow.llm.cost"] == cost
    assert attributes["gen_ai.usage.input_tokens"] == 100


def test_an_unknown_cost_leaves_that_of_the_calls_inside() -> None:
    attributes = one({**lm_attributes(dspy__lm__cost__total=None), **INNER})
    assert attributes["mlflow.llm.cost"]["total_cost"] == 0.5


@pytest.mark.parametrize("provider", ["hosted_vllm", "ollama_chat", "sglang"])
def test_a_model_of_ones_own_gets_no_price_of_somebody_else(provider: str) -> None:
    model = "deepseek-ai/DeepSeek-R1"
    unpriced = lm_attributes(gen_ai__provider__name=provider, dspy__lm__cost__total=None)
    assert one({**unpriced, "gen_ai.response.model": model})["mlflow.llm.cost"] == {}
    priced = lm_attributes(gen_ai__provider__name=provider)
    assert one(priced)["mlflow.llm.cost"]["total_cost"] == 0.0012


def test_a_price_that_the_program_told_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(model_cost={"hosted_vllm/mine": {"input_cost_per_token": 1e-6}})
    monkeypatch.setitem(sys.modules, "litellm", known)
    unpriced = lm_attributes(gen_ai__provider__name="hosted_vllm", dspy__lm__cost__total=None)
    assert "mlflow.llm.cost" not in one({**unpriced, "gen_ai.response.model": "mine"})


@pytest.mark.parametrize("tokens", [-1, math.nan, "many", True, 2**70, None])
def test_senseless_token_count_is_no_usage(tokens: Any) -> None:
    counts = {"gen_ai.usage.input_tokens": tokens, "gen_ai.usage.output_tokens": tokens}
    span = Recorder().one("span", {"gen_ai.operation.name": "chat"})
    broken = replaced(span, attributes={**counts, "gen_ai.operation.name": "chat"})
    assert "mlflow.chat.tokenUsage" not in attributes_of(broken)


@pytest.mark.parametrize(
    ("named", "priced_as"),
    [
        ("openai", "openai"),
        ("aws.bedrock", "bedrock"),
        ("azure.ai.openai", "azure"),
        ("gcp.vertex_ai", "vertex_ai"),
        ("gcp.gemini", "gemini"),
        ("x_ai", "xai"),
        ("mistral_ai", "mistral"),
        ("of our own", "of our own"),
    ],
)
def test_provider_by_the_name_under_which_mlflow_knows_its_prices(
    named: str, priced_as: str
) -> None:
    attributes = one(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": named,
            "gen_ai.request.model": f"{priced_as}/m",
        }
    )
    assert attributes["mlflow.llm.provider"] == priced_as
    assert attributes["mlflow.llm.model"] == "m"
    assert attributes["gen_ai.provider.name"] == named
