# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""LMs whose answers come from another one: tokens and cost are those that were paid for, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from tests.support.fake_openai import FakeOpenAI, Reply, Usage
from tests.support.faults import Status
from tests.support.lms import DSPY, EchoLM, Version, completion, served
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith
from tests.unit.instrumentation.measured import Measured

pytestmark = pytest.mark.surface("LM")

CHAT = "chat gpt-4o-mini"
SPENT = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "dspy.lm.cost.total")
# At the prices of gpt-4o-mini: 0.15 and 0.60 dollars for a million tokens.
ONCE = (1000, 500, pytest.approx(0.00045))
NATIVE = Version("3.4") <= DSPY
engines_only = pytest.mark.skipif(not NATIVE, reason="engines came with dspy 3.4")


@pytest.fixture
def fresh_cache(tmp_path: Path) -> Iterator[None]:
    before = dspy.cache
    dspy.configure_cache(disk_cache_dir=str(tmp_path))
    yield
    dspy.cache = before


class Delegating(dspy.LM):
    """An LM that adds something of its own to DSPy's, here nothing."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return super().forward(prompt, messages, **kwargs)

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return await super().aforward(prompt, messages, **kwargs)


class Twice(dspy.LM):
    """An LM that asks twice and takes the second answer."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        super().forward(prompt, messages, **kwargs)
        return super().forward(prompt, messages, **kwargs)


class Rewriting(dspy.LM):
    """An LM that returns a response of its own making, without a usage."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        super().forward(prompt, messages, **kwargs)
        return completion("mine", usage={}, id="mine-1", model="mine")


class Falling(dspy.LM):
    """An LM that is not content with the answer it got."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        super().forward(prompt, messages, **kwargs)
        raise ValueError("not good enough")


class Router(dspy.BaseLM):
    """Hands over to another LM in ``forward``.

    Args:
        route: Makes the response from the other LM and the messages.
    """

    def __init__(self, other: dspy.BaseLM, route: Callable[[dspy.BaseLM, Any], Any]) -> None:
        super().__init__("router", cache=False)
        self.other, self.route = other, route

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self.route(self.other, messages or [{"role": "user", "content": prompt}])


def connected(kind: type[dspy.LM], server: FakeOpenAI, **options: Any) -> dspy.LM:
    """An LM of the class, talking to the fake server."""
    options = {"api_base": server.base_url, "api_key": "test", "cache": False, **options}
    return kind("openai/gpt-4o-mini", **options)


async def call(lm: dspy.BaseLM, mode: str, *args: Any, **kwargs: Any) -> Any:
    return lm(*args, **kwargs) if mode == "sync" else await lm.acall(*args, **kwargs)


def priced(*texts: str) -> list[Reply]:
    return [Reply(text, usage=Usage(1000, 500), finish_reason="length") for text in texts]


def spent(traced: Traced, name: str = CHAT) -> tuple[Any, ...]:
    attributes = traced.attributes(name)
    return tuple(attributes.get(key) for key in SPENT)


@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_facts_are_those_of_the_base_class(
    traced: Traced, server: FakeOpenAI, mode: str
) -> None:
    server.reply_with(*priced("hi"))
    assert await call(connected(Delegating, server), mode, "hello") == ["hi"]
    attributes = traced.attributes(CHAT)
    assert spent(traced) == ONCE
    assert attributes["dspy.lm.cost.source"] == ("dspy" if NATIVE else "litellm")
    assert attributes["gen_ai.response.id"] == "chatcmpl-1"
    assert attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert attributes["dspy.lm.cache.hit"] is False


@pytest.mark.parametrize("options", [{}, {"engine": "litellm"}], ids=["default", "litellm"])
@pytest.mark.usefixtures("fresh_cache")
def test_a_cache_hit_below_an_override_costs_nothing(
    traced: Traced, server: FakeOpenAI, options: dict[str, Any]
) -> None:
    server.reply_with(*priced("hi"))
    lm = connected(Delegating, server, cache=True, **(options if NATIVE else {}))
    lm("hello")
    traced.clear()
    assert lm("hello") == ["hi"]
    assert len(server.requests) == 1
    assert spent(traced) == (None, None, None)
    assert traced.attributes(CHAT)["dspy.lm.cache.hit"] is True
    assert traced.attributes(CHAT)["dspy.lm.cache.tier"] == "memory"


@pytest.mark.skipif(not NATIVE, reason="DSPy has no place that both answers pass before 3.4")
def test_every_answer_of_the_base_class_is_paid_for(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(*priced("one", "two"))
    assert connected(Twice, server)("hello") == ["two"]
    assert spent(traced) == (2000, 1000, pytest.approx(0.0009))
    assert traced.attributes(CHAT)["gen_ai.response.id"] == "chatcmpl-2"


@engines_only
def test_a_response_of_its_own_making(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(*priced("hi"))
    assert connected(Rewriting, server)("hello") == ["mine"]
    assert spent(traced) == ONCE
    assert traced.attributes(CHAT)["gen_ai.response.id"] == "mine-1"
    assert traced.attributes(CHAT)["gen_ai.response.model"] == "mine"


@engines_only
def test_what_was_paid_for_before_an_error(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(*priced("hi"))
    with pytest.raises(ValueError, match="good enough"):
        connected(Falling, server)("hello")
    assert spent(traced) == ONCE


def by_forward(other: Any, messages: Any) -> Any:
    return other.forward(messages=messages)


def by_call_with_usage(other: Any, messages: Any) -> Any:
    (text,) = other(messages=messages)
    return completion(text, usage=dict(other.history[-1]["usage"]))


def by_call_with_the_response(other: Any, messages: Any) -> Any:
    other(messages=messages)
    return by_history(other)


def by_history(other: Any) -> Any:
    entry = other.history[-1]
    response = entry["response"]
    return completion(entry["outputs"][0], id=response.id, usage=dict(entry["usage"]))


def by_two_calls(other: Any, messages: Any) -> Any:
    texts = [other(messages=messages)[0] for _ in range(2)]
    usages = [entry["usage"] for entry in other.history[-2:]]
    names = ("prompt_tokens", "completion_tokens")
    return completion(texts[-1], usage={name: sum(u[name] for u in usages) for name in names})


def test_another_lm_by_its_forward_is_one_span_with_the_cost(
    traced: Traced, server: FakeOpenAI
) -> None:
    server.reply_with(*priced("hi"))
    assert Router(served(server), by_forward)("hello") == ["hi"]
    assert traced.names() == ["chat router"]
    assert spent(traced, "chat router") == ONCE


@pytest.mark.parametrize(
    ("route", "calls"),
    [(by_call_with_usage, 1), (by_call_with_the_response, 1), (by_two_calls, 2)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_usage_that_was_passed_on_is_counted_once(
    traced: Traced, server: FakeOpenAI, route: Any, calls: int
) -> None:
    server.reply_with(*priced("hi", "hi"))
    assert Router(served(server), route)("hello") == ["hi"]
    inner = f"{CHAT} {{{SPENT[0]}=1000}}"
    assert traced.tree(SPENT[0]) == "\n".join(
        ["chat router", *[f"├─ {inner}"] * (calls - 1), f"└─ {inner}"]
    )


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "not sampled"])
def test_metrics_count_what_the_spans_have(
    trace_with: TraceWith, server: FakeOpenAI, sampler: Sampler
) -> None:
    measured = Measured()
    trace_with(sampler=sampler, meter_provider=measured.provider)
    server.reply_with(*priced("hi", "hi", "hi"))
    Router(served(server), by_two_calls)("hello")
    connected(Delegating, server)("hello")
    assert measured.tokens("gpt-4o-mini") == {"input": 3000, "output": 1500}
    assert measured.tokens("router") == {}


def test_a_usage_of_its_own_is_counted_beside_that_of_another(traced: Traced) -> None:
    class Summing(EchoLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            EchoLM("checked")("may I?")
            return completion("fine", usage={"prompt_tokens": 70, "completion_tokens": 9})

    Summing()("hello")
    assert traced.tree(SPENT[0]) == (f"chat echo {{{SPENT[0]}=70}}\n└─ chat echo {{{SPENT[0]}=3}}")


def test_a_check_after_the_answer_takes_nothing_from_it(traced: Traced) -> None:
    class Checked(EchoLM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            result = super().__call__(*args, **kwargs)
            EchoLM("fine")("is it?")
            return result

    Checked("yes")("hello")
    assert traced.tree(SPENT[0]) == (f"chat echo {{{SPENT[0]}=3}}\n└─ chat echo {{{SPENT[0]}=3}}")


class RoutingEngine:
    """The replacement, since dspy 3.4, of a router with its own ``forward``."""

    def __init__(self, other: Any) -> None:
        self.other = other

    def complete(self, request: Any) -> Any:
        return self.other(dataclasses.replace(request, model=self.other.model))


@engines_only
@pytest.mark.usefixtures("fresh_cache")
def test_an_engine_that_asks_another_lm(traced: Traced, server: FakeOpenAI) -> None:
    server.reply_with(*priced("hi"))
    lm = dspy.LM("my/router", engine=RoutingEngine(served(server, cache=True)), cache=False)
    assert lm("hello") == ["hi"]
    assert traced.tree(*SPENT[:2]) == (
        f"chat router\n└─ {CHAT} {{{SPENT[0]}=1000, {SPENT[1]}=500}}"
    )
    traced.clear()
    assert lm("hello") == ["hi"]
    assert traced.tree(*SPENT[:2], "dspy.lm.cache.hit") == (
        f"chat router {{dspy.lm.cache.hit=True}}\n└─ {CHAT} {{dspy.lm.cache.hit=True}}"
    )


@engines_only
@pytest.mark.parametrize("mode", ["sync", "async"])
async def test_what_a_failed_call_had_paid_for(
    traced: Traced, server: FakeOpenAI, mode: str
) -> None:
    """Several choices are several requests; DSPy counts those before the one that failed, too."""

    def answer_once(request: Any) -> Reply:
        failing.fail_with(Status(400))
        return Reply("one", usage=Usage(1000, 500))

    with FakeOpenAI(answer_once) as failing, dspy.track_usage() as tracker:
        lm = served(failing, num_retries=0)
        with pytest.raises(Exception, match="400"):
            await call(lm, mode, "hello", n=2, temperature=1.0)
    assert spent(traced) == ONCE
    assert traced.attributes(CHAT)["error.type"]
    assert tracker.get_total_tokens()[lm.model]["prompt_tokens"] == 1000


class Judged(EchoLM):
    """An LM that has its answer judged by another."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = super().__call__(*args, **kwargs)
        Judging("fine")("is it?")
        return result


class Judging(EchoLM):
    """A judge that asks a second one, and has costs of its own."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        EchoLM("indeed")("is it really?")
        details = {"cached_tokens": 20, "cache_write_tokens": 10}
        usage = {"prompt_tokens": 40, "completion_tokens": 9, "prompt_tokens_details": details}
        return completion("fine", usage=usage, _hidden_params={"response_cost": 0.5})


def inner_of(span: Any) -> dict[str, Any]:
    start = "dspy.lm.inner."
    attributes = dict(span.attributes)
    return {name.removeprefix(start): attributes[name] for name in attributes if start in name}


def test_what_the_calls_inside_used_stands_apart(traced: Traced) -> None:
    Judged("yes")("hello")
    second, judge, own = traced.spans
    assert inner_of(second) == {}
    assert inner_of(judge) == {"input_tokens": 3, "output_tokens": 2}
    assert inner_of(own) == {
        "input_tokens": 43,
        "output_tokens": 11,
        "cache_read.input_tokens": 20,
        "cache_creation.input_tokens": 10,
        "cost.total": 0.5,
    }
    assert (own.attributes or {})[SPENT[0]] == 3


def test_an_embedder_inside_of_an_lm_call(traced: Traced, server: FakeOpenAI) -> None:
    embedder = dspy.Embedder(
        "openai/text-embedding-3-small",
        api_base=server.base_url,
        api_key="test",
        caching=False,
    )

    class Remembering(EchoLM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            embedder(["one", "two"])
            return super().__call__(*args, **kwargs)

    Remembering("yes")("hello")
    inner = inner_of(traced.span("chat echo"))
    assert inner.pop("cost.total") > 0
    assert inner == {"input_tokens": 2}


def test_an_lm_that_used_nothing_itself_says_nothing_of_others(traced: Traced) -> None:
    class Routing(EchoLM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return EchoLM("routed")(*args, **kwargs)

    Routing()("hello")
    assert [inner_of(span) for span in traced.spans] == [{}, {}]


@engines_only
def test_a_release_that_hands_over_more_than_today(
    monkeypatch: pytest.MonkeyPatch, trace_with: TraceWith, server: FakeOpenAI
) -> None:
    from dspy.clients import execution

    today = execution.finalize
    monkeypatch.setattr(execution, "finalize", lambda *arguments: today(*arguments[:3]))
    traced = trace_with()
    observed = execution.finalize
    server.reply_with(Reply("yes", usage=Usage(1000, 500)))
    with monkeypatch.context() as later:
        later.setattr(execution, "finalize", lambda *arguments: observed(*arguments, "new"))
        served(server)("hello")
    assert tuple(traced.attributes(CHAT).get(name) for name in SPENT) == ONCE
