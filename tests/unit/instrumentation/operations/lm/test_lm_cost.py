# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""What a call of an LM cost: what the provider charges, else what a price table says, else none."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.lms import BLUE, DSPY, EchoLM, Version, completion, served
from tests.support.traced import Traced

pytestmark = pytest.mark.surface("LM")

NATIVE = Version("3.4") <= DSPY
# OpenRouter's additions to every usage; with BYOK, its fee is separate.
CHARGED = {"cost": 0.0123, "is_byok": False, "cost_details": {"upstream_inference_cost": None}}
OWN_KEY = {"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}


def cost_of(traced: Traced, name: str) -> tuple[Any, Any]:
    attributes = traced.attributes(name)
    return attributes.get("dspy.lm.cost.total"), attributes.get("dspy.lm.cost.source")


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "someprovider/unknown"])
@pytest.mark.parametrize(
    ("more", "cost"), [(CHARGED, 0.0123), (OWN_KEY, 0.021)], ids=["theirs", "own key"]
)
@pytest.mark.skipif(not NATIVE, reason="LiteLLM takes it for its own cost")
def test_what_the_provider_charges(
    traced: Traced, server: FakeOpenAI, model: str, more: dict[str, Any], cost: float
) -> None:
    server.reply_with(Reply("hi", usage=Usage(1000, 500, more=more)))
    served(server, f"openrouter/{model}")("hello")
    assert cost_of(traced, f"chat {model}") == (pytest.approx(cost), "provider")


@pytest.mark.skipif(not NATIVE, reason="LiteLLM takes it for its own cost")
def test_what_the_provider_charges_for_a_stream(traced: Traced, server: FakeOpenAI) -> None:
    async def stream() -> None:
        with dspy.context(lm=served(server, "openrouter/openai/gpt-4o-mini")):
            streaming = dspy.streamify(dspy.Predict("question -> answer"))
            async for _ in streaming(question="?"):
                pass

    server.reply_with(Reply(BLUE, usage=Usage(1000, 500, more=CHARGED)))
    asyncio.run(stream())
    assert cost_of(traced, "chat openai/gpt-4o-mini") == (pytest.approx(0.0123), "provider")


@pytest.mark.skipif(not NATIVE, reason="before 3.4, two choices are one request")
def test_charges_of_several_choices_add_up(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(*[Reply("hi", usage=Usage(1000, 500, more=CHARGED))] * 2)
    served(server, "openrouter/openai/gpt-4o-mini")("hello", n=2, temperature=1.0)
    assert cost_of(traced, "chat openai/gpt-4o-mini") == (pytest.approx(0.0246), "provider")


@pytest.mark.parametrize(
    ("charge", "cost"),
    [(0.5, 0.5), (0, 0.0), (-1, None), ("0.5", None), ({"total": 1}, None), (True, None)],
)
def test_a_charge_in_the_usage_of_a_custom_lm(
    traced: Traced, charge: Any, cost: float | None
) -> None:
    class Charging(EchoLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "cost": charge}
            return completion("hi", usage=usage)

    Charging()("hello")
    source = None if cost is None else "provider"
    assert cost_of(traced, "chat echo") == (cost, source)


def test_a_price_that_the_lm_was_made_with(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply("hi", usage=Usage(1000, 500)))
    prices = {"input_cost_per_token": 1e-3, "output_cost_per_token": 2e-3}
    served(server, "openai/my-priced-model", **prices)("hello")
    assert cost_of(traced, "chat my-priced-model") == (pytest.approx(2.0), "litellm")


def test_a_model_without_a_price_has_no_cost(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(Reply("hi", usage=Usage(1000, 500)))
    served(server, "openai/my-own-model")("hello")
    assert cost_of(traced, "chat my-own-model") == (None, None)
    assert traced.attributes("chat my-own-model")["gen_ai.usage.input_tokens"] == 1000
