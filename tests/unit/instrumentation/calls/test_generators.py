# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
"""Programs whose result is a generator: most of their work is done after the call has returned."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import dspy
import pytest
from opentelemetry import context as context_api
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased

from tests.support.traced import Traced, uninstrument
from tests.unit.instrumentation.conftest import TraceWith

pytestmark = pytest.mark.surface("generators")


class Yielding(dspy.Module):
    """Yields what its tool returns, step by step, either way."""

    def __init__(self) -> None:
        super().__init__()
        self.tool = dspy.Tool(lambda number: number * 2, name="double", args={"number": {}})

    def forward(self, count: int) -> Iterator[int]:
        for number in range(count):
            yield self.tool(number=number)

    async def aforward(self, count: int) -> AsyncIterator[int]:
        async def numbers() -> AsyncIterator[int]:
            for number in range(count):
                yield await self.tool.acall(number=number)

        return numbers()


class Outer(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Yielding()

    def forward(self, count: int) -> Any:
        return self.inner(count=count)


DOUBLED = "invoke_workflow Yielding\n├─ execute_tool double\n└─ execute_tool double"


def test_its_steps_belong_to_its_call(traced: Traced) -> None:
    before = context_api.get_current()
    numbers = Yielding()(count=2)
    assert inspect.isgenerator(numbers)
    assert numbers.gi_code is Yielding.forward.__code__
    assert list(numbers) == [0, 2]
    assert traced.tree() == DOUBLED
    assert context_api.get_current() == before


async def test_so_they_do_asynchronously(traced: Traced) -> None:
    numbers = await Yielding().acall(count=2)
    assert inspect.isasyncgen(numbers)
    assert [number async for number in numbers] == [0, 2]
    assert traced.tree() == DOUBLED


def test_a_generator_that_is_passed_on_belongs_to_its_maker(traced: Traced) -> None:
    assert list(Outer()(count=1)) == [0]
    assert traced.tree() == ("invoke_workflow Outer\n└─ Yielding inner\n   └─ execute_tool double")


def test_two_in_turns_stay_apart(traced: Traced) -> None:
    program = Yielding()
    assert list(zip(program(count=2), program(count=2), strict=True)) == [(0, 0), (2, 2)]
    assert traced.tree() == f"{DOUBLED}\n{DOUBLED}"


def test_a_generator_that_another_thread_consumes(traced: Traced) -> None:
    numbers = Yielding()(count=2)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.extend(numbers))
    thread.start()
    thread.join()
    assert results == [0, 2]
    assert traced.tree() == DOUBLED


def test_the_span_around_the_call_stays_around_it(traced: Traced) -> None:
    with traced.tracer.start_as_current_span("request"):
        assert list(Yielding()(count=2)) == [0, 2]
    below = DOUBLED.replace("\n", "\n   ")
    assert traced.tree() == f"request\n└─ {below}"


def test_a_span_of_the_programs_own_keeps_its_children(traced: Traced) -> None:
    class Step(Yielding):
        def forward(self, count: int) -> Iterator[int]:
            with traced.tracer.start_as_current_span("step"):
                yield self.tool(number=count)

    with traced.tracer.start_as_current_span("request"):
        assert list(Step()(count=1)) == [2]
    assert traced.tree() == ("request\n├─ invoke_workflow Step\n└─ step\n   └─ execute_tool double")


def test_between_its_steps_nothing_belongs_to_it(traced: Traced) -> None:
    program = Yielding()
    for _ in program(count=1):
        program.tool(number=1)
    assert traced.tree() == (
        "invoke_workflow Yielding\n└─ execute_tool double\nexecute_tool double"
    )


def test_steps_of_a_call_that_is_not_sampled_are_not_either(trace_with: TraceWith) -> None:
    traced = trace_with(sampler=ParentBased(ALWAYS_OFF))
    assert list(Yielding()(count=2)) == [0, 2]
    assert traced.spans == []


@pytest.mark.usefixtures("traced")
def test_a_generator_is_not_kept() -> None:
    program = Yielding()
    numbers = program(count=2)
    next(numbers)
    kept = weakref.ref(numbers), weakref.ref(program)
    del numbers, program
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


def test_a_generator_that_outlives_the_instrumentation(traced: Traced) -> None:
    numbers = Yielding()(count=2)
    assert next(numbers) == 0
    uninstrument()
    assert list(numbers) == [2]
    assert traced.names() == ["invoke_workflow Yielding", "execute_tool double"]
