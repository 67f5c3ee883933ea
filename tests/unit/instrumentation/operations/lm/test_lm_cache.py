# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Answers from DSPy's cache: marked as such, with their tier, and never counted again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest

from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.lms import EchoLM, answering, completion, served
from tests.support.traced import Traced

pytestmark = pytest.mark.surface("LM")

CHAT = "chat gpt-4o-mini"


@pytest.fixture
def fresh_cache(tmp_path: Path) -> Iterator[Any]:
    """DSPy's cache of both tiers, empty at the start."""
    before = dspy.cache
    dspy.configure_cache(disk_cache_dir=str(tmp_path / "cache"))
    yield dspy.cache
    dspy.cache = before


async def call(lm: dspy.LM, mode: str, *args: Any, **kwargs: Any) -> Any:
    return lm(*args, **kwargs) if mode == "sync" else await lm.acall(*args, **kwargs)


def cache_facts(span: Any) -> dict[str, Any]:
    return {
        name.removeprefix("dspy.lm.cache."): value
        for name, value in span.attributes.items()
        if name.startswith("dspy.lm.cache.")
    }


def counted(span: Any) -> list[str]:
    return [name for name in span.attributes if ".usage." in name or ".cost." in name]


@pytest.mark.parametrize("tier", ["memory", "disk"])
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_a_hit_counts_nothing(
    traced: Traced, server: FakeOpenAI, fresh_cache: Any, mode: str, tier: str
) -> None:
    server.reply_with(Reply("hi", usage=Usage(10, 5), model="gpt-4o-mini-2024"))
    lm = served(server, cache=True)
    assert await call(lm, mode, "hello") == ["hi"]
    if tier == "disk":
        fresh_cache.reset_memory_cache()
    assert await call(lm, mode, "hello") == ["hi"]
    miss, hit = traced.spans
    assert len(server.requests) == 1
    assert cache_facts(miss) == {"enabled": True, "hit": False}
    assert "gen_ai.usage.input_tokens" in counted(miss)
    assert "dspy.lm.cost.total" in counted(miss)
    assert cache_facts(hit) == {"enabled": True, "hit": True, "tier": tier}
    assert counted(hit) == []
    # What answered is still known.
    assert (hit.attributes or {})["gen_ai.response.model"] == "gpt-4o-mini-2024"
    assert (hit.attributes or {})["gen_ai.response.id"] == "chatcmpl-1"
    same = ("gen_ai.input.messages", "gen_ai.output.messages")
    assert [(hit.attributes or {})[name] for name in same] == [
        (miss.attributes or {})[name] for name in same
    ]


@pytest.mark.parametrize("tiers", [("memory",), ("disk",), ()])
def test_each_combination_of_tiers(
    traced: Traced, server: FakeOpenAI, fresh_cache: Any, tmp_path: Path, tiers: tuple[str, ...]
) -> None:
    dspy.configure_cache(
        enable_memory_cache="memory" in tiers,
        enable_disk_cache="disk" in tiers,
        disk_cache_dir=str(tmp_path / "other"),
    )
    lm = served(server, cache=True)
    lm("hello")
    lm("hello")
    facts = cache_facts(traced.spans[1])
    assert (facts["hit"], facts.get("tier")) == (bool(tiers), tiers[0] if tiers else None)


def test_a_program_counts_its_calls_and_no_tokens(
    traced: Traced, server: FakeOpenAI, fresh_cache: Any
) -> None:
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=served(server, cache=True)):
        first = predict(question="?")
        traced.clear()
        second = predict(question="?")
    assert first.answer == second.answer
    assert traced.attributes("invoke_workflow Predict")["dspy.lm.call.count"] == 1
    assert counted(traced.span(CHAT)) == []


def test_turned_off_for_one_call(traced: Traced, server: FakeOpenAI, fresh_cache: Any) -> None:
    lm = served(server, cache=True)
    lm("hello")
    lm("hello", cache=False)
    assert [cache_facts(span) for span in traced.spans] == [
        {"enabled": True, "hit": False},
        {"enabled": False, "hit": False},
    ]


def test_a_rollout_tells_equal_requests_apart(
    traced: Traced, server: FakeOpenAI, fresh_cache: Any
) -> None:
    lm = served(server, cache=True, temperature=1.0)
    for rollout in (1, 2, 1):
        lm("hello", rollout_id=rollout)
    facts = [
        ((span.attributes or {})["dspy.lm.rollout_id"], cache_facts(span)["hit"])
        for span in traced.spans
    ]
    assert facts == [(1, False), (2, False), (1, True)]


def test_an_lm_that_dspy_does_not_cache(traced: Traced, fresh_cache: Any) -> None:
    lm = EchoLM(cache=False)
    lm("hello")
    lm("hello")
    assert [cache_facts(span)["hit"] for span in traced.spans] == [False, False]
    assert "gen_ai.usage.input_tokens" in counted(traced.spans[1])


def test_answers_of_the_cache_among_others(
    traced: Traced, server: FakeOpenAI, fresh_cache: Any
) -> None:
    class Twice(dspy.LM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return [*super().__call__(*args, **kwargs), *super().__call__(*args, **kwargs)]

    lm = Twice("openai/gpt-4o-mini", api_base=server.base_url, api_key="x", cache=True)
    server.reply_with(Reply("hi", usage=Usage(10, 2)))
    assert lm("hello") == ["hi", "hi"]
    attributes = traced.attributes(CHAT)
    assert attributes["dspy.lm.cache.hit"] is False
    assert attributes["gen_ai.usage.input_tokens"] == 10
    traced.clear()
    assert lm("hello") == ["hi", "hi"]
    assert cache_facts(traced.span(CHAT))["hit"] is True
    assert counted(traced.span(CHAT)) == []


async def test_lms_that_dspy_never_caches_say_nothing_of_it(traced: Traced) -> None:
    for lm in (EchoLM(cache=True), answering()):
        lm("hello")
        await lm.acall("hello")
    assert [cache_facts(span).get("enabled") for span in traced.spans] == [None] * 4


async def test_an_lm_with_a_forward_of_its_own(traced: Traced, fresh_cache: Any) -> None:
    class Own(dspy.LM):
        """Goes by DSPy's cache, which is asked further down."""

        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return completion("mine")

        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return completion("mine")

    lm = Own("openai/gpt-4o-mini", api_key="x", cache=True)
    for options in ({}, {"cache": False}):
        lm("hello", **options)
        await lm.acall("hello", **options)
    assert [cache_facts(span).get("enabled") for span in traced.spans] == [None, None, False, False]


async def test_a_cache_that_is_switched_off(
    traced: Traced, server: FakeOpenAI, fresh_cache: Any
) -> None:
    lm = served(server, cache=True)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    for mode in ("sync", "async"):
        await call(lm, mode, "hello")
        await call(lm, mode, "hello")
    assert [cache_facts(span) for span in traced.spans] == [{"enabled": False, "hit": False}] * 4


def test_a_hit_after_a_failure(traced: Traced, server: FakeOpenAI, fresh_cache: Any) -> None:
    from tests.support.faults import Status

    lm = served(server, cache=True, num_retries=0)
    server.fail_with(Status(400, '{"error":{"message":"no"}}'))
    with pytest.raises(Exception, match="no"):
        lm("hello")
    lm("hello")
    lm("hello")
    assert [cache_facts(span).get("hit") for span in traced.spans] == [None, False, True]


def test_a_cache_of_the_program(traced: Traced, server: FakeOpenAI) -> None:
    from dspy.clients.cache import Cache

    class Own(Cache):
        """Keeps answers in a place of its own."""

        def __init__(self) -> None:
            self.kept: dict[str, Any] = {}

        def get(self, request: Any, ignored_args_for_cache_key: Any = None) -> Any:
            return self.kept.get(self.cache_key(request, ignored_args_for_cache_key))

        def put(self, request: Any, value: Any, *more: Any, **options: Any) -> None:
            self.kept[self.cache_key(request, *more[:1])] = value

    before, dspy.cache = dspy.cache, Own()
    try:
        assert served(server, cache=True)("hello") == ["some text"]
    finally:
        dspy.cache = before
    assert cache_facts(traced.span(CHAT))["hit"] is False
