# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Many calls at once on one LM object: no span has a fact of another call."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.fake_openai import FakeOpenAI, Reply, Request, Usage
from tests.support.lms import EchoLM, completion, served
from tests.support.traced import Traced

pytestmark = pytest.mark.surface("LM")

CALLS = 50


@pytest.fixture(autouse=True)
def eager_thread_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def respond(request: Request) -> Reply:
    """Number n in, n in every fact of the answer out."""
    number = int(request.last_user)
    return Reply(f"echo {number}", usage=Usage(1000 + number, number), model=f"model-{number}")


def facts(span: Any) -> dict[str, Any]:
    attributes = span.attributes
    (asked,) = json.loads(attributes["gen_ai.input.messages"])
    (answered,) = json.loads(attributes["gen_ai.output.messages"])
    return {
        "asked": asked["parts"][0]["content"],
        "answered": answered["parts"][0]["content"],
        "input": attributes["gen_ai.usage.input_tokens"],
        "output": attributes["gen_ai.usage.output_tokens"],
        "model": attributes["gen_ai.response.model"],
    }


def expected(number: int) -> dict[str, Any]:
    return {
        "asked": str(number),
        "answered": f"echo {number}",
        "input": 1000 + number,
        "output": number,
        "model": f"model-{number}",
    }


def assert_each_has_its_own(spans: list[Any], numbers: Any) -> None:
    found = sorted((facts(span) for span in spans), key=lambda fact: int(fact["asked"]))
    assert found == [expected(number) for number in numbers]


class NumberLM(EchoLM):
    """As `respond`, without a server in between."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        number = int(prompt)
        usage = {"prompt_tokens": 1000 + number, "completion_tokens": number}
        return completion(f"echo {number}", usage=usage, model=f"model-{number}")

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return self.forward(prompt)


def test_threads_on_a_server(traced: Traced) -> None:
    with FakeOpenAI(respond) as server, ThreadPoolExecutor(16) as pool:
        lm = served(server)
        list(pool.map(lambda number: lm(str(number)), range(CALLS)))
    assert_each_has_its_own(traced.spans, range(CALLS))
    assert len({(span.attributes or {})["gen_ai.response.id"] for span in traced.spans}) == CALLS


async def test_tasks_on_a_server(traced: Traced) -> None:
    with FakeOpenAI(respond) as server:
        lm = served(server)
        await asyncio.gather(*(lm.acall(str(number)) for number in range(CALLS)))
    assert_each_has_its_own(traced.spans, range(CALLS))
    assert len({(span.attributes or {})["gen_ai.response.id"] for span in traced.spans}) == CALLS


def test_threads_that_switch_all_the_time(traced: Traced) -> None:
    lm = NumberLM()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: lm(str(number)), range(400)))
    assert_each_has_its_own(traced.spans, range(400))


async def test_tasks_that_switch_all_the_time(traced: Traced) -> None:
    lm = NumberLM()
    await asyncio.gather(*(lm.acall(str(number)) for number in range(100)))
    assert_each_has_its_own(traced.spans, range(100))


def test_the_counts_of_modules_lose_nothing(traced: Traced) -> None:
    import dspy

    lm = NumberLM()

    class Program(dspy.Module):
        def forward(self) -> None:
            from opentelemetry import context

            current = context.get_current()

            def ask(number: int) -> None:
                token = context.attach(current)
                lm(str(number))
                context.detach(token)

            with ThreadPoolExecutor(8) as pool:
                list(pool.map(ask, range(200)))

    Program()()
    assert traced.attributes("invoke_workflow Program")["dspy.lm.call.count"] == 200
