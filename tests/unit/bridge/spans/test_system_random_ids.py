# Copyright The opentelemetry-instrumentation-dspy Authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import random
from importlib.metadata import entry_points

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from mlflow_bridge._spans.tracer_provider import (
    SystemRandomIdGenerator,
    use_system_random_ids,
)


def ids_of_a_span(provider: TracerProvider) -> tuple[int, int]:
    context = provider.get_tracer("test").start_span("span").get_span_context()
    return context.trace_id, context.span_id


def test_the_same_seed_makes_different_ids() -> None:
    provider = TracerProvider(id_generator=SystemRandomIdGenerator(), shutdown_on_exit=False)
    seen: list[tuple[int, int]] = []
    for _ in range(3):
        random.seed(42)
        seen.append(ids_of_a_span(provider))
    assert len({trace_id for trace_id, _ in seen}) == 3
    assert len({span_id for _, span_id in seen}) == 3


def test_spans_do_not_change_the_random_numbers_of_the_program() -> None:
    provider = TracerProvider(id_generator=SystemRandomIdGenerator(), shutdown_on_exit=False)
    random.seed(42)
    alone = [random.random() for _ in range(3)]
    random.seed(42)
    drawn: list[float] = []
    for _ in range(3):
        ids_of_a_span(provider)
        drawn.append(random.random())
    assert drawn == alone


def test_ids_are_of_full_length_and_flagged_as_random() -> None:
    generator = SystemRandomIdGenerator()
    trace_ids = [generator.generate_trace_id() for _ in range(200)]
    span_ids = [generator.generate_span_id() for _ in range(200)]
    assert 2**120 < max(trace_ids) < 2**128
    assert 2**56 < max(span_ids) < 2**64
    assert 0 not in trace_ids + span_ids
    assert len(set(trace_ids)) == len(set(span_ids)) == 200
    assert generator.is_trace_id_random()


def test_a_provider_with_the_usual_generator_gets_the_other_generator() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    early = provider.get_tracer("made before")
    random.seed(42)
    seeded = early.start_span("span").get_span_context()
    use_system_random_ids(provider)
    random.seed(42)
    assert early.start_span("span").get_span_context().trace_id != seeded.trace_id
    random.seed(42)
    assert ids_of_a_span(provider) != (seeded.trace_id, seeded.span_id)
    assert type(TracerProvider(shutdown_on_exit=False).id_generator) is RandomIdGenerator


def test_a_generator_of_the_programs_choice_stays() -> None:
    class Counting(RandomIdGenerator):
        def generate_span_id(self) -> int:
            return 7

    chosen = Counting()
    provider = TracerProvider(id_generator=chosen, shutdown_on_exit=False)
    use_system_random_ids(provider)
    assert provider.id_generator is chosen
    use_system_random_ids(object())


def test_opentelemetry_finds_the_generator_by_name() -> None:
    [found] = entry_points(group="opentelemetry_id_generator", name="system_random")
    assert found.load() is SystemRandomIdGenerator
