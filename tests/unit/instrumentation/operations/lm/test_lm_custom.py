# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""LMs that users write: one span for each call, whichever methods they override."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy
import pytest

from tests.support.lms import DSPY, EchoLM, Version, answers, completion
from tests.support.traced import Traced
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("LM")

USAGE = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")


def forward_only() -> type[dspy.BaseLM]:
    class ForwardOnly(EchoLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return completion("mine")

        async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return completion("mine")

    return ForwardOnly


def with_super() -> type[dspy.BaseLM]:
    class WithSuper(forward_only()):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            return await super().acall(*args, **kwargs)

    return WithSuper


def super_of_super() -> type[dspy.BaseLM]:
    class SuperOfSuper(with_super()):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            return await super().acall(*args, **kwargs)

    return SuperOfSuper


def base_called_by_name() -> type[dspy.BaseLM]:
    class ByName(forward_only()):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return dspy.BaseLM.__call__(self, *args, **kwargs)

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            return await dspy.BaseLM.acall(self, *args, **kwargs)

    return ByName


def without_super() -> type[dspy.BaseLM]:
    class WithoutSuper(EchoLM):
        def __call__(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return ["mine"]

        async def acall(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            return ["mine"]

    return WithoutSuper


def asynchronous_by_the_sync_one() -> type[dspy.BaseLM]:
    class Delegating(without_super()):
        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            return self(*args, **kwargs)

    return Delegating


def plain_acall_with_super() -> type[dspy.BaseLM]:
    class PlainWithSuper(forward_only()):
        def acall(self, *args: Any, **kwargs: Any) -> Any:
            return super().acall(*args, **kwargs)

    return PlainWithSuper


def plain_acall_without_super() -> type[dspy.BaseLM]:
    class PlainWithoutSuper(without_super()):
        def acall(self, *args: Any, **kwargs: Any) -> Any:
            return self.answer()

        async def answer(self) -> Any:
            return ["mine"]

    return PlainWithoutSuper


def inheriting_an_override() -> type[dspy.BaseLM]:
    class Inheriting(without_super()):
        pass

    return Inheriting


MAKERS: list[Callable[[], type[dspy.BaseLM]]] = [
    forward_only,
    with_super,
    super_of_super,
    base_called_by_name,
    without_super,
    asynchronous_by_the_sync_one,
    plain_acall_with_super,
    plain_acall_without_super,
    inheriting_an_override,
]


@pytest.mark.parametrize("defined", ["before", "after"])
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
async def test_one_call_is_one_span(
    trace_with: TraceWith, make: Callable[[], type[dspy.BaseLM]], defined: str
) -> None:
    early = make() if defined == "before" else None
    traced = trace_with()
    lm = (early or make())()
    assert lm("hello") == ["mine"]
    assert traced.tree() == "chat echo"
    traced.clear()
    assert await lm.acall("hello") == ["mine"]
    assert traced.tree() == "chat echo"
    assert traced.attributes("chat echo")["dspy.lm.type"] == type(lm).__name__
    (said,) = traced.content("chat echo", "gen_ai.output.messages")
    assert said["parts"] == [{"type": "text", "content": "mine"}]


@pytest.mark.parametrize(
    "make", [forward_only, with_super, base_called_by_name, plain_acall_with_super]
)
async def test_usage_reaches_the_span(traced: Traced, make: Any) -> None:
    lm = make()()
    lm("hello")
    await lm.acall("hello")
    for span in traced.spans:
        attributes = dict(span.attributes or {})
        assert [attributes[name] for name in USAGE] == [3, 2]
        assert attributes["gen_ai.response.id"] == "response-1"
        assert attributes["gen_ai.response.model"] == "echo-2025"
        assert attributes["gen_ai.response.finish_reasons"] == ("stop",)


def test_an_lm_that_asks_itself_again_makes_nested_spans(traced: Traced) -> None:
    class Refining(EchoLM):
        def __call__(self, prompt: str, **kwargs: Any) -> Any:
            return self(prompt[1:]) if prompt.startswith("!") else super().__call__(prompt)

    Refining("fine")("!!hello")
    assert traced.tree(USAGE[0]) == (
        "chat echo\n└─ chat echo\n   └─ chat echo {gen_ai.usage.input_tokens=3}"
    )


def test_tokens_are_right_where_an_override_calls_super_twice(traced: Traced) -> None:
    class Voting(EchoLM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return [*super().__call__(*args, **kwargs), *super().__call__(*args, **kwargs)]

    lm = Voting("yes")
    for _ in range(2):
        assert lm("hello") == ["yes", "yes"]
        assert traced.tree(*USAGE) == (
            "chat echo {gen_ai.usage.input_tokens=6, gen_ai.usage.output_tokens=4}"
        )
        reasons = traced.attributes("chat echo")["gen_ai.response.finish_reasons"]
        assert reasons == ("stop", "stop")
        traced.clear()


async def test_tokens_are_right_where_an_override_asks_until_it_is_content(traced: Traced) -> None:
    class Checking(EchoLM):
        """Asks until the answer is long enough, and returns the last one."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            while len((result := super().__call__(*args, **kwargs))[0]) < 3:
                self.reply = str(self.reply) + "!"
            return result

        async def acall(self, *args: Any, **kwargs: Any) -> Any:
            while len((result := await super().acall(*args, **kwargs))[0]) < 3:
                self.reply = str(self.reply) + "!"
            return result

    assert Checking("y")("hello") == ["y!!"]
    assert await Checking("y").acall("hello") == ["y!!"]
    assert traced.tree(*USAGE) == "\n".join(
        ["chat echo {gen_ai.usage.input_tokens=9, gen_ai.usage.output_tokens=6}"] * 2
    )


def test_super_and_a_recursion(traced: Traced) -> None:
    class Thinking(EchoLM):
        def __call__(self, prompt: str, **kwargs: Any) -> Any:
            first = super().__call__(prompt)
            return [*first, *self(prompt[1:]), *super().__call__(prompt)] if prompt else first

    assert Thinking("hm")("a") == ["hm"] * 3
    assert traced.tree(USAGE[0]) == (
        "chat echo {gen_ai.usage.input_tokens=6}\n└─ chat echo {gen_ai.usage.input_tokens=3}"
    )


def test_an_lm_that_hands_over_to_another(traced: Traced) -> None:
    class Router(EchoLM):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return EchoLM("routed", top_p=0.5)(*args, **kwargs)

    router = Router()
    router.model = "router"
    assert router("hello") == ["routed"]
    assert traced.tree(USAGE[0], "gen_ai.request.top_p") == (
        "chat router\n└─ chat echo {gen_ai.usage.input_tokens=3, gen_ai.request.top_p=0.5}"
    )


def test_dummy_lm(traced: Traced) -> None:
    lm = answers("red", "blue")
    with dspy.context(lm=lm):
        assert dspy.Predict("question -> answer")(question="?").answer == "red"
    (call,) = [span for span in traced.spans if span.name == "chat dummy"]
    assert (call.attributes or {})["dspy.lm.type"] == "DummyLM"
    assert traced.content("chat dummy", "gen_ai.output.messages")[0]["parts"][0]["content"] == (
        "[[ ## answer ## ]]\nred"
    )


async def test_dummy_lm_asynchronously(traced: Traced) -> None:
    await answers("red").acall("hello")
    # Its acall() goes through __call__() in dspy < 3.2.
    assert traced.tree() == "chat dummy"


def test_an_override_may_be_a_decorated_function(traced: Traced) -> None:
    def shouting(function: Any) -> Any:
        import functools

        @functools.wraps(function)
        def shout(*args: Any, **kwargs: Any) -> Any:
            return [text.upper() for text in function(*args, **kwargs)]

        return shout

    class Loud(EchoLM):
        @shouting
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    assert Loud("hey")("hello") == ["HEY"]
    assert traced.tree() == "chat echo"


def test_a_class_with_keywords_of_its_own(traced: Traced) -> None:
    seen: list[Any] = []

    class Registering(EchoLM):
        def __init_subclass__(cls, family: str = "", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            seen.append((cls.__name__, family))

    class Member(Registering, family="x"):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ["mine"]

    assert seen == [("Member", "x")]
    assert Member()("hello") == ["mine"]
    assert traced.tree() == "chat echo"


def test_init_subclass_still_rejects_unknown_keywords(traced: Traced) -> None:
    with pytest.raises(TypeError, match="keyword argument"):
        type("Odd", (EchoLM,), {}, family="x")


@pytest.mark.skipif(Version("3.4") > DSPY, reason="engines came with dspy 3.4")
def test_an_engine_behind_dspys_own_lm(traced: Traced) -> None:
    from dspy import lm15

    class Engine:
        def complete(self, request: Any) -> Any:
            return lm15.Response(
                model="engine-2025",
                id="e-1",
                message=lm15.Message.assistant("hello"),
                finish_reason="stop",
                usage=lm15.Usage(input_tokens=7, output_tokens=4),
            )

    assert dspy.LM("my/engine", engine=Engine(), cache=False)("hi") == ["hello"]
    attributes = traced.attributes("chat engine")
    assert [attributes[name] for name in USAGE] == [7, 4]
    assert attributes["gen_ai.response.model"] == "engine-2025"
    assert attributes["gen_ai.response.id"] == "e-1"
